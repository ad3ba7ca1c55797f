"""ImageNet weights go into the trunk of a network, whole or not at all, and leave the rest alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from tests.few import slow_except
from wsi_magnet.errors import BundleError
from wsi_magnet.nets.encoder import COUNTER, load_encoder
from wsi_magnet.nets.registry import OWN_NETWORKS, build_network, network_info
from wsi_magnet.nets.resnet import RESNET50, ResNet

PREFIX = "resnet_backbone."

TRUNKS = ("fpn", "psp", "hrnet18+ocr", "fcn_resnet50_unet")
"""Networks that take the weights of an ImageNet classifier."""


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Weights of a ResNet-50 as in an ImageNet checkpoint, with its classifier."""
    torch.manual_seed(1)
    state = dict(ResNet(RESNET50).state_dict())
    return {**state, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}


@pytest.fixture
def network() -> nn.Module:
    """One with a ResNet-50 in it."""
    torch.manual_seed(2)
    return build_network("fpn", 3)


def trunk_of(network: nn.Module) -> dict[str, Tensor]:
    state = network.state_dict()
    return {key.removeprefix(PREFIX): tensor for key, tensor in state.items() if key.startswith(PREFIX)}


def written(folder: Path, weights: dict[str, Tensor], suffix: str = ".pth") -> Path:
    path = folder / f"resnet{suffix}"
    if suffix == ".pth":
        torch.save(weights, path)
    else:
        safetensors.torch.save_file(weights, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_trunk_takes_the_weights(
    network: nn.Module, weights: dict[str, Tensor], tmp_path: Path, suffix: str
) -> None:
    load_encoder(network, "fpn", written(tmp_path, weights, suffix))
    assert all(torch.equal(tensor, weights[key]) for key, tensor in trunk_of(network).items())


def test_the_rest_stays_as_it_is(network: nn.Module, weights: dict[str, Tensor], tmp_path: Path) -> None:
    before = {key: tensor.clone() for key, tensor in network.state_dict().items() if not key.startswith(PREFIX)}
    load_encoder(network, "fpn", written(tmp_path, weights))
    after = network.state_dict()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


def test_the_weights_can_still_be_learned(network: nn.Module, weights: dict[str, Tensor], tmp_path: Path) -> None:
    load_encoder(network, "fpn", written(tmp_path, weights))
    assert all(p.requires_grad for p in network.parameters())


def test_a_parallel_wrappers_prefix_is_taken_off(
    network: nn.Module, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    wrapped = {"state_dict": {f"module.{key}": tensor for key, tensor in weights.items()}, "epoch": 3}
    torch.save(wrapped, tmp_path / "wrapped.pth")
    load_encoder(network, "fpn", tmp_path / "wrapped.pth")
    assert torch.equal(trunk_of(network)["conv1.weight"], weights["conv1.weight"])


def test_old_checkpoints_without_counters_are_taken(
    network: nn.Module, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    old = {key: tensor for key, tensor in weights.items() if not key.endswith(COUNTER)}
    load_encoder(network, "fpn", written(tmp_path, old))
    assert torch.equal(trunk_of(network)["layer4.2.bn3.running_var"], weights["layer4.2.bn3.running_var"])


def test_a_file_without_a_layer_is_refused_and_changes_nothing(
    network: nn.Module, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    before = trunk_of(network)["conv1.weight"].clone()
    lacking = {key: tensor for key, tensor in weights.items() if not key.startswith("layer4.")}
    with pytest.raises(BundleError, match=r"resnet\.pth as the trunk of fpn does not fit: .* missing"):
        load_encoder(network, "fpn", written(tmp_path, lacking))
    assert torch.equal(trunk_of(network)["conv1.weight"], before)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layer5.weight": torch.zeros(1)}, "tensors unexpected"),
        ({"conv1.weight": torch.zeros(64, 1, 7, 7)}, r"\[64, 1, 7, 7\], not \[64, 3, 7, 7\]"),
        ({"conv1.weight": torch.full((64, 3, 7, 7), float("nan"))}, "holds NaN or infinity"),
    ],
)
def test_weights_of_another_network_are_refused(
    network: nn.Module, weights: dict[str, Tensor], tmp_path: Path, change: dict[str, Tensor], said: str
) -> None:
    with pytest.raises(BundleError, match=said):
        load_encoder(network, "fpn", written(tmp_path, {**weights, **change}))


@pytest.mark.parametrize("name", sorted(set(OWN_NETWORKS) - set(TRUNKS)))
def test_a_network_without_such_a_trunk_is_refused(name: str) -> None:
    with pytest.raises(BundleError, match=f"network '{name}' takes no encoder weights"):
        load_encoder(nn.Identity(), name, "weights.pth")


@pytest.mark.parametrize("name", ["none.pth", "none.safetensors"])
def test_a_file_that_is_not_there_is_named(network: nn.Module, tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match=name):
        load_encoder(network, "fpn", tmp_path / name)


def test_a_file_that_is_no_safetensors_is_refused(network: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(BundleError, match=r"text\.safetensors cannot be read"):
        load_encoder(network, "fpn", tmp_path / "text.safetensors")


@pytest.mark.parametrize("name", slow_except(["fpn"], TRUNKS))
def test_every_trunk_takes_its_own_weights(tmp_path: Path, name: str) -> None:
    network, trunk = build_network(name, 2), network_info(name).trunk
    assert trunk is not None
    state = {key.removeprefix(trunk.prefix): tensor for key, tensor in network.state_dict().items()}
    own = {key: torch.zeros_like(tensor) for key, tensor in state.items() if key.partition(".")[0] in trunk.layers}
    heads = {f"{head}.weight": torch.zeros(3) for head in trunk.heads}
    load_encoder(network, name, written(tmp_path, {**own, **heads}))
    found = network.state_dict()
    assert own
    assert all(not found[trunk.prefix + key].any() for key in own)
