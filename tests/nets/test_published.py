"""The three published backbones: names and shapes of their weights, any input size, any number of classes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.few import slow_except
from tests.parity.recipe import shapes
from wsi_magnet.nets.fold import fold_batch_norm
from wsi_magnet.nets.hrnet_ocr import class_context
from wsi_magnet.nets.pspnet import UpBlock
from wsi_magnet.nets.registry import build_network

PUBLISHED = ("fpn", "psp", "hrnet18+ocr")
networks = pytest.mark.parametrize("name", slow_except(["hrnet18+ocr"], PUBLISHED))


def unbuilt(name: str, n_classes: int) -> nn.Module:
    with torch.device("meta"):
        return build_network(name, n_classes)


@pytest.fixture(scope="module", params=["fpn", pytest.param("psp", marks=pytest.mark.slow), "hrnet18+ocr"])
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return build_network(request.param, 7).eval()


@networks
def test_state_dict_is_the_published_one(name: str) -> None:
    found = {key: list(tensor.shape) for key, tensor in unbuilt(name, 5).state_dict().items()}
    assert found == shapes(name)


@pytest.mark.parametrize(
    ("name", "n_classes", "parameters", "tensors"),
    [("hrnet18+ocr", 19, 6_379_278, 924), ("fpn", 7, 28_064_839, 344), ("psp", 5, 72_319_501, 658)],
)
def test_sizes_are_the_published_ones(name: str, n_classes: int, parameters: int, tensors: int) -> None:
    made = unbuilt(name, n_classes)
    assert sum(p.numel() for p in made.parameters()) == parameters
    assert len(made.state_dict()) == tensors


@pytest.mark.parametrize("hw", [(64, 96), (61, 77), (33, 32)])
def test_logits_have_the_size_of_any_input(network: nn.Module, hw: tuple[int, int]) -> None:
    with torch.inference_mode():
        assert network(torch.randn(1, 3, *hw)).shape == (1, 7, *hw)


def test_each_image_of_a_batch_is_segmented_alone(network: nn.Module) -> None:
    batch = torch.randn(2, 3, 45, 38)
    with torch.inference_mode():
        together, alone = network(batch), torch.cat([network(image[None]) for image in batch])
    assert (together - alone).abs().max() <= 1e-4 * alone.abs().max()


def test_a_folded_network_computes_the_same(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.6, 1)
            nn.init.normal_(module.bias, 0, 0.05)
    image = torch.randn(1, 3, 40, 64)
    folded = fold_batch_norm(network)
    with torch.inference_mode():
        expected, found = network(image), folded(image)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]


def test_nothing_is_remembered_between_calls(network: nn.Module) -> None:
    first, other = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 32, 40)
    with torch.inference_mode():
        before = network(first)
        network(other)
        assert torch.equal(network(first), before)


@pytest.mark.parametrize("name", ["psp", "hrnet18+ocr"])
def test_logits_are_the_two_heads_weighed(name: str) -> None:
    made = build_network(name, 2).eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        main, auxiliary = made.heads(image)  # type: ignore[operator]
        torch.testing.assert_close(made(image), (main + 0.4 * auxiliary) / 1.4)


def test_class_context_is_a_weighted_mean_for_each_class() -> None:
    pixels, logits = torch.randn(2, 4, 3, 5), torch.randn(2, 3, 3, 5)
    context = class_context(pixels, logits)
    for n in range(2):
        for c in range(3):
            weight = logits[n, c].exp() / logits[n, c].exp().sum()
            torch.testing.assert_close(context[n, :, c, 0], (weight * pixels[n]).sum(dim=(1, 2)))


def test_an_up_block_doubles_odd_sizes_too() -> None:
    assert UpBlock(2, 3).eval()(torch.randn(1, 2, 3, 5)).shape == (1, 3, 6, 10)
