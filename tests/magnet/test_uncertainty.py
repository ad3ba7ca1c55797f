"""Uncertainty, the query score and its blur, against slow and obvious twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from wsi_magnet.errors import ConfigError
from wsi_magnet.magnet.uncertainty import confidence, median_blur, query_score, uncertainty


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(2).softmax(dim=1)


@pytest.mark.parametrize(
    ("p", "margin"), [([0.7, 0.2, 0.1], 0.5), ([0.1, 0.2, 0.7], 0.5), ([0.4, 0.4, 0.2], 0.0), ([0.0, 1.0, 0.0], 1.0)]
)
def test_confidence_is_the_margin_of_the_two_likeliest(p: list[float], margin: float) -> None:
    p_map = torch.tensor(p).view(1, 3, 1, 1)
    assert confidence(p_map).item() == pytest.approx(margin)
    assert uncertainty(p_map).item() == pytest.approx(1 - margin)


@pytest.mark.parametrize("n_classes", [2, 5, 7, 19])
def test_confidence_is_what_sorting_says(n_classes: int) -> None:
    p = maps(2, n_classes, 6, 5)
    ordered = p.sort(dim=1, descending=True).values
    assert torch.equal(confidence(p), (ordered[:, 0] - ordered[:, 1]).unsqueeze(1))


@pytest.mark.parametrize("side", [1, 3, 5, 11])
def test_the_blur_is_a_median_with_nought_beyond_the_edge(side: int) -> None:
    x = torch.rand(2, 1, 13, 9)
    expected = np.stack([ndimage.median_filter(one, size=side, mode="constant")[None] for one in x[:, 0].numpy()])
    assert np.array_equal(median_blur(x, side).numpy(), expected)


@pytest.mark.parametrize("side", [0, 16, -3])
def test_a_median_without_a_middle_is_refused(side: int) -> None:
    with pytest.raises(ConfigError, match="give an odd number"):
        median_blur(torch.rand(1, 1, 20, 20), side)


def test_the_score_is_high_where_only_the_refined_map_is_sure() -> None:
    sure, unsure = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), torch.tensor([0.5, 0.5]).view(1, 2, 1, 1)

    def score(coarse: Tensor, refined: Tensor) -> float:
        return query_score(coarse=coarse, refined=refined, grid_hw=(1, 1), median_px=1).item()

    assert score(unsure, sure) == 1
    assert score(unsure, unsure) == score(sure, sure) == score(sure, unsure) == 0


def test_the_score_is_blurred_on_the_coarse_grid_and_enlarged_in_blocks() -> None:
    coarse, refined = maps(1, 3, 24, 32, seed=1), maps(1, 3, 24, 32, seed=2)
    raw = (uncertainty(coarse) * confidence(refined))[0, 0, ::4, ::4].numpy()
    expected = np.kron(ndimage.median_filter(raw, size=5, mode="constant"), np.ones((4, 4), np.float32))
    found = query_score(coarse=coarse, refined=refined, grid_hw=(6, 8), median_px=5)
    assert found.shape == (1, 1, 24, 32)
    assert np.array_equal(found[0, 0].numpy(), expected)


@given(st.integers(0, 10_000), st.sampled_from([1, 3, 5]))
def test_the_score_lies_between_nought_and_one(seed: int, median_px: int) -> None:
    coarse, refined = maps(1, 4, 8, 8, seed=seed), maps(1, 4, 8, 8, seed=seed + 1)
    score = query_score(coarse=coarse, refined=refined, grid_hw=(4, 4), median_px=median_px)
    assert 0 <= score.min() <= score.max() <= 1
