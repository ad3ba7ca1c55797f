"""Patches cover an image to its last row, and put together again they are the image."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wsi_magnet.geometry import Box
from wsi_magnet.magnet.patches import assemble, cut, patch_grid


def test_patches_that_fit_lie_side_by_side() -> None:
    grid = patch_grid(image_hw=(8, 12), patch_hw=(4, 4))
    assert [(b.y0, b.x0) for b in grid] == [(y, x) for y in (0, 4) for x in (0, 4, 8)]


def test_patches_that_do_not_fit_overlap() -> None:
    assert [b.x0 for b in patch_grid(image_hw=(4, 10), patch_hw=(4, 4))] == [0, 3, 6]


def test_the_last_patch_ends_at_the_edge() -> None:
    # Published: 1000 pixels in patches of 300 end at 999, since the step of 233.3 is cut to 233.
    assert [b.x0 for b in patch_grid(image_hw=(300, 1000), patch_hw=(300, 300))] == [0, 233, 466, 700]
    assert [b.x0 for b in patch_grid(image_hw=(3, 22), patch_hw=(3, 3))] == [0, 2, 5, 8, 10, 13, 16, 19]


def test_an_image_smaller_than_a_patch_is_refused() -> None:
    with pytest.raises(ValueError, match="3 pixels are fewer than a patch of 4"):
        patch_grid(image_hw=(8, 3), patch_hw=(4, 4))


sides = st.integers(1, 9)


@given(sides, sides, st.integers(0, 30), st.integers(0, 30))
def test_every_pixel_is_covered_and_the_mean_of_overlaps_is_the_image(h: int, w: int, dy: int, dx: int) -> None:
    image = torch.rand(1, 2, h + dy, w + dx)
    grid = patch_grid(image_hw=(h + dy, w + dx), patch_hw=(h, w))
    assert all(box.size.hw == (h, w) and box.intersect(Box(0, 0, w + dx, h + dy)) == box for box in grid)
    whole, covered = assemble(((box, cut(image, box)) for box in grid), image=image)
    assert covered.all()
    torch.testing.assert_close(whole, image)


def test_a_constant_stays_a_constant_where_patches_overlap() -> None:
    image = torch.full((1, 1, 5, 11), 0.5)
    grid = patch_grid(image_hw=(5, 11), patch_hw=(3, 4))
    whole, _ = assemble(((box, cut(image, box)) for box in grid), image=image)
    assert torch.equal(whole, image)


def test_overlapping_patches_are_averaged() -> None:
    boxes = Box(0, 0, 2, 1), Box(1, 0, 3, 1)
    patches = torch.full((1, 1, 1, 2), 1.0), torch.full((1, 1, 1, 2), 3.0)
    whole, covered = assemble(zip(boxes, patches, strict=True), image=torch.zeros(1, 1, 1, 4))
    assert whole.flatten().tolist() == [1, 2, 3, 0]
    assert covered.flatten().tolist() == [True, True, True, False]
