"""`vit:` as a network: names, frozen weights, the grid of its tokens, and what depends on what."""

from __future__ import annotations

import copy
from itertools import pairwise
from math import pi

import pytest
import torch
from torch import Tensor

from wsi_magnet.errors import BundleError
from wsi_magnet.inference.features import FeatureTap
from wsi_magnet.inference.optimize import computing_in, inference_form
from wsi_magnet.nets.fold import fold_batch_norm
from wsi_magnet.nets.frozen import copy_sharing_frozen, learned_keys
from wsi_magnet.nets.registry import OWN_NETWORKS, build_network, network_info, network_names
from wsi_magnet.nets.vit_adapter import STRIDE, VitNet
from wsi_magnet.nets.vit_variants import VARIANTS


@pytest.fixture(scope="module")
def network() -> VitNet:
    torch.manual_seed(0)
    found = build_network("vit:tiny", 3, width=16).eval()
    assert isinstance(found, VitNet)
    return found


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def test_the_family_has_its_place_in_the_registry() -> None:
    assert "vit" not in OWN_NETWORKS
    assert "vit:" in network_names()
    assert [network_info(f"vit:{name}").name for name in VARIANTS] == [f"vit:{name}" for name in VARIANTS]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vit", "network 'vit' has variants; name one as vit:VARIANT"),
        ("vit:", "network 'vit:' has variants"),
        ("vit:hibou", "network 'vit:hibou' is no encoder that is known here; near it: hibou-b"),
        ("vit:resnet", "network 'vit:resnet' is no encoder that is known here; there are: tiny, small, hibou-b"),
    ],
)
def test_an_unknown_encoder_is_refused_with_those_there_are(name: str, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        network_info(name)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"width": 4}, "network_args.width is 4, not a whole number between 8 and 512"),
        ({"positions_px": 225}, "network_args.positions_px 225 is no multiple of 14"),
        ({"depth": 3}, "takes no 'depth'; its arguments are: width .*, positions_px"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, int], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        build_network("vit:tiny", 3, **arguments)


@pytest.mark.parametrize("hw", [(64, 64), (96, 160)])
def test_logits_have_the_size_of_the_input(network: VitNet, hw: tuple[int, int]) -> None:
    with torch.inference_mode():
        assert network(noise(2, 3, *hw)).shape == (2, 3, *hw)


def test_a_side_that_is_no_multiple_of_a_token_is_refused(network: VitNet) -> None:
    with pytest.raises(ValueError, match=f"multiples of {STRIDE}; got 64 x 72"):
        network(noise(1, 3, 64, 72))


def test_each_image_of_a_batch_is_segmented_alone(network: VitNet) -> None:
    batch = noise(3, 3, 64, 64)
    with torch.inference_mode():
        together, alone = network(batch), torch.cat([network(image[None]) for image in batch])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_the_same_patch_gives_the_same_bits(network: VitNet) -> None:
    x = noise(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(network(x), network(x.clone()))


@pytest.mark.parametrize("name", ["tiny", "uni"])
def test_a_token_is_16_pixels_of_the_patch(name: str) -> None:
    with torch.device("meta"):
        found = network_info(f"vit:{name}").made(2, {})
        assert isinstance(found, VitNet)
        tokens = found.tokens(torch.empty(1, 3, 96, 64))
    shape = VARIANTS[name].shape
    assert tokens.shape == (1, len(shape.taps) * shape.width, 6, 4)


def test_a_token_lies_where_its_pixels_are(network: VitNet) -> None:
    x = torch.zeros(1, 3, 96, 96)
    x[..., 32:48, 64:80] = 1
    with torch.no_grad():
        side = network.encoder.shape.patch_px
        small = torch.nn.functional.interpolate(x, size=(84, 84), mode="bilinear", antialias=True)
        patches = network.encoder.patch_embed(small) - network.encoder.patch_embed(torch.zeros_like(small))
    strength = patches.abs().sum(dim=1)[0]
    assert side == 14
    assert divmod(int(strength.argmax()), 6) == (2, 4)


def test_fine_detail_comes_from_the_convolutional_branch(network: VitNet) -> None:
    """A pattern within a token, turned round: the branch sees it, at its place."""
    x, waves = noise(1, 3, 64, 64), torch.sin(torch.arange(16) * pi / 2)
    changed = x.clone()
    changed[..., 32:48, 32:48] += 0.5 * waves
    with torch.no_grad():
        four = (network.stem(changed) - network.stem(x)).abs().sum(dim=1)[0]
    rows, columns = four.nonzero().T
    assert (int(rows.min()), int(rows.max())) in {(7, 12), (8, 12), (7, 11), (8, 11)}
    assert (int(columns.min()), int(columns.max())) in {(7, 12), (8, 12), (7, 11), (8, 11)}


def test_gradients_reach_the_branch_and_nothing_frozen(network: VitNet) -> None:
    own = copy.deepcopy(network).train()
    own(noise(2, 3, 64, 64)).square().mean().backward()
    with_gradient = {key for key, one in own.named_parameters() if one.grad is not None}
    assert with_gradient == {key for key, _ in own.named_parameters() if not key.startswith("encoder.")}


def test_copies_share_what_is_frozen_and_nothing_else(network: VitNet) -> None:
    copied = copy_sharing_frozen(network)
    own, other = dict(network.named_parameters()), dict(copied.named_parameters())
    shared = {key for key, one in own.items() if one.data_ptr() == other[key].data_ptr()}
    assert shared == {key for key in own if key.startswith("encoder.")}
    assert {key.partition(".")[0] for key in learned_keys(network)}.isdisjoint({"encoder"})
    assert learned_keys(network) | shared == network.state_dict().keys()


def test_the_form_of_inference_shares_the_encoder_and_leaves_the_network_as_it_is(network: VitNet) -> None:
    x = noise(1, 3, 64, 64)
    whole = copy.deepcopy(network).requires_grad_(False)
    before = {key: one.clone() for key, one in whole.state_dict().items()}
    form = inference_form(whole, torch.device("cpu"), torch.float32)
    assert all(torch.equal(one, before[key]) for key, one in whole.state_dict().items())
    one, other = (n.get_parameter("encoder.blocks.0.mlp.fc1.weight").data_ptr() for n in (whole, form))
    assert one == other
    with torch.inference_mode():
        torch.testing.assert_close(form(x), network(x), atol=1e-4, rtol=1e-4)


def test_half_precision_of_a_copy_leaves_the_network_in_single(network: VitNet) -> None:
    form = inference_form(network, torch.device("cpu"), torch.bfloat16)
    assert form.get_parameter("encoder.blocks.0.attn.qkv.weight").dtype is torch.bfloat16
    assert all(one.dtype is torch.float32 for one in network.parameters())
    x = noise(1, 3, 64, 64)
    with torch.inference_mode(), computing_in(torch.bfloat16, torch.device("cpu")):
        found = form(x).float()
    with torch.inference_mode():
        torch.testing.assert_close(found, network(x), atol=0.1, rtol=0.1)


def test_features_for_other_methods_are_at_stride_4(network: VitNet) -> None:
    form = fold_batch_norm(network, by_name=False)
    tap = FeatureTap(form, network_info("vit:tiny"))
    with torch.inference_mode():
        form(noise(1, 3, 64, 64))
    assert tap.take(64).shape == (1, 16, 16, 16)


def test_blocks_whose_tokens_are_used_are_even_and_the_last_is_one() -> None:
    for variant in VARIANTS.values():
        taps = variant.shape.taps
        assert taps[-1] == variant.shape.depth - 1
        assert max(b - a for a, b in pairwise(taps)) <= -(-variant.shape.depth // len(taps))
