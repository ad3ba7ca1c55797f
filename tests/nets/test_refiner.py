"""Refinement module: weights, receptive radius, and two inputs that cannot be swapped unnoticed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.parity.recipe import shapes
from wsi_magnet.nets.fold import fold_batch_norm
from wsi_magnet.nets.identity import IdentityRefiner
from wsi_magnet.nets.refiner import BAND_PX, RefinementModule
from wsi_magnet.nets.registry import build_refiner


def built(n_classes: int = 3) -> RefinementModule:
    torch.manual_seed(0)
    module = RefinementModule(n_classes)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.6, 1)
            nn.init.normal_(layer.bias, 0, 0.05)
    return module.eval()


def maps(*shape: int) -> Tensor:
    return torch.rand(*shape).softmax(dim=1)


def test_state_dict_is_the_published_one() -> None:
    found = {key: list(tensor.shape) for key, tensor in RefinementModule(5).state_dict().items()}
    assert found == shapes("refiner")
    assert len(found) == 60


@pytest.mark.parametrize(("n_classes", "parameters"), [(5, 85_524), (7, 88_092), (19, 103_500)])
def test_size_is_the_published_one(n_classes: int, parameters: int) -> None:
    assert sum(p.numel() for p in RefinementModule(n_classes).parameters()) == parameters


def test_the_light_one_is_a_fourteenth_of_the_arithmetic_in_the_same_form() -> None:
    published, light = build_refiner("magnet", 4), build_refiner("light", 4)
    assert list(light.state_dict()) == list(published.state_dict())
    macs = [
        sum(c.weight.numel() for c in module.modules() if isinstance(c, nn.Conv2d)) for module in (published, light)
    ]
    assert 13 < macs[0] / macs[1] < 14
    assert light.receptive_radius_px == published.receptive_radius_px


@torch.inference_mode()
def test_channel_order_says_which_map_comes_first() -> None:
    fine_first, coarse_first = built(), RefinementModule(3, "coarse_first").eval()
    coarse_first.load_state_dict(fine_first.state_dict())
    one, other = maps(2, 3, 8, 9), maps(2, 3, 8, 9)
    assert torch.equal(fine_first(fine=one, coarse=other), coarse_first(fine=other, coarse=one))
    assert not torch.allclose(fine_first(fine=one, coarse=other), coarse_first(fine=one, coarse=other))


def test_the_two_maps_go_by_name_only() -> None:
    with pytest.raises(TypeError):
        built()(maps(1, 3, 8, 8), maps(1, 3, 8, 8))


@torch.inference_mode()
def test_a_pixel_reaches_four_pixels_far() -> None:
    module, fine, coarse = built(), maps(1, 3, 21, 21), maps(1, 3, 21, 21)
    changed = fine.clone()
    changed[..., 10, 10] = torch.tensor([1.0, 0.0, 0.0])
    difference = (module(fine=changed, coarse=coarse) - module(fine=fine, coarse=coarse)).abs().amax(dim=1)[0]
    rows, columns = (difference > 0).nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (6, 14, 6, 14)


@pytest.mark.parametrize("rows", [1, 5, BAND_PX, BAND_PX + 1, BAND_PX + 6, 3 * BAND_PX - 2])
@torch.inference_mode()
def test_bands_give_what_the_whole_map_gives(rows: int) -> None:
    module, fine, coarse = built(), maps(2, 3, rows, 9), maps(2, 3, rows, 9)
    whole = module.merge_whole(torch.cat([fine, coarse], dim=1))
    torch.testing.assert_close(module(fine=fine, coarse=coarse), whole)


@torch.inference_mode()
def test_a_folded_module_computes_the_same() -> None:
    module, fine, coarse = built(), maps(2, 3, 8, 9), maps(2, 3, 8, 9)
    expected, folded = module(fine=fine, coarse=coarse), fold_batch_norm(module)
    assert (folded(fine=fine, coarse=coarse) - expected).abs().max() <= 1e-5 * expected.abs().max()
    # The first one stands before a convolution that pads: folded, it would be wrong at the edge.
    assert [name for name, m in folded.named_modules() if isinstance(m, nn.BatchNorm2d)] == ["bn0"]


def test_the_identity_refiner_gives_back_the_fine_map() -> None:
    fine = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    refined = IdentityRefiner()(fine=fine, coarse=maps(1, 3, 1, 1)).softmax(dim=1)
    torch.testing.assert_close(refined, fine)
