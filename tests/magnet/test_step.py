"""One MagNet step: what is selected is replaced whole, the rest is left alone."""

from __future__ import annotations

import torch
from torch import Tensor

from wsi_magnet.magnet.selection import select_fraction
from wsi_magnet.magnet.step import magnet_step, refine_patch

COARSE = torch.rand(1, 3, 4, 6).softmax(dim=1)
REFINED = torch.rand(1, 3, 4, 6).softmax(dim=1)


def test_selected_pixels_take_all_classes_from_the_refined_map() -> None:
    selected = torch.zeros(1, 1, 4, 6, dtype=torch.bool)
    selected[0, 0, 2, 3] = True
    merged = magnet_step(coarse=COARSE, refined=REFINED, selected=selected)
    assert torch.equal(merged[..., 2, 3], REFINED[..., 2, 3])
    assert (merged == COARSE).all(dim=1).sum() == 4 * 6 - 1


def test_nothing_selected_is_y_and_everything_is_r() -> None:
    for points, expected in ((0, COARSE), (1.0, REFINED)):
        selected = select_fraction(torch.rand(1, 1, 4, 6), points)
        assert torch.equal(magnet_step(coarse=COARSE, refined=REFINED, selected=selected), expected)


def test_a_soft_selection_mixes_in_proportion() -> None:
    weight = torch.full((1, 1, 4, 6), 0.25)
    merged = magnet_step(coarse=COARSE, refined=REFINED, selected=weight)
    torch.testing.assert_close(merged, 0.75 * COARSE + 0.25 * REFINED)


def test_a_soft_selection_keeps_probabilities_that_add_up() -> None:
    merged = magnet_step(coarse=COARSE, refined=REFINED, selected=torch.rand(1, 1, 4, 6))
    torch.testing.assert_close(merged.sum(dim=1), torch.ones(1, 4, 6))


def test_all_or_nothing_of_a_soft_selection_is_the_hard_one() -> None:
    hard = torch.rand(1, 1, 4, 6) < 0.5
    soft = magnet_step(coarse=COARSE, refined=REFINED, selected=hard.float())
    torch.testing.assert_close(soft, magnet_step(coarse=COARSE, refined=REFINED, selected=hard))


def test_the_refined_map_is_the_softmax_of_the_refiner_given_both_maps_by_name() -> None:
    seen: dict[str, Tensor] = {}

    def refiner(*, fine: Tensor, coarse: Tensor) -> Tensor:
        seen.update(fine=fine, coarse=coarse)
        return coarse.log().half()

    refined = refine_patch(fine=REFINED, coarse=COARSE, refiner=refiner)
    assert seen["fine"] is REFINED
    assert seen["coarse"] is COARSE
    assert refined.dtype == torch.float32
    torch.testing.assert_close(refined, COARSE, atol=1e-3, rtol=0)
