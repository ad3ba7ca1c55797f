"""Views: every scale shows the same place, with the same halo all round; validation sees all that is labelled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from tests.slides_made import coded, shifts
from wsi_magnet.dataset.open_sample import OpenSample, SamplePool, open_sample
from wsi_magnet.dataset.sample import Sample
from wsi_magnet.geometry import Box, Size
from wsi_magnet.magnet.step import without_margin
from wsi_magnet.nets.spec import ClassInfo
from wsi_magnet.train.augment import Augmentation
from wsi_magnet.train.views import (
    Windows,
    _starts,
    ladder_at,
    read_view,
    to_sets,
    to_tensor,
    validation_views,
)

CLASSES = (ClassInfo("a", 0, (0, 0, 0)), ClassInfo("b", 1, (255, 0, 0)))
MPPS = (4.0, 2.0, 1.0)
WINDOWS = Windows(side_px=64, halo_px=8, mpps=MPPS)


def sample_of(folder: Path, image: np.ndarray, mask: np.ndarray, mpp: float = 1.0, row: int = 2) -> Sample:
    Pillow.fromarray(image).save(folder / f"image_{row}.png")
    Pillow.fromarray(mask).save(folder / f"mask_{row}.png")
    paths = folder / f"image_{row}.png", folder / f"mask_{row}.png"
    return Sample(row=row, image=paths[0], annotations=(paths[1],), mpp=mpp, group="g", split="validation")


def coordinates(folder: Path, axis: str, mpp: float = 1.0) -> OpenSample:
    """A slide whose pixels say where they are."""
    size = Size(700, 600)
    return open_sample(sample_of(folder, coded(size, axis), np.zeros(size.hw, np.uint8), mpp), CLASSES)


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("factor", [1.0, 0.83, 1.31])
def test_all_scales_show_the_same_place(tmp_path: Path, axis: str, factor: float) -> None:
    opened = coordinates(tmp_path, axis)
    scales = ladder_at(opened, MPPS, factor)
    corner_yx = (50, 40)
    view = read_view(opened, scales, corner_yx, WINDOWS)
    for index, scale in enumerate(scales):
        y, x = (corner << index for corner in corner_yx)
        side = WINDOWS.window_px(index)
        box = Box(x, y, x + side, y + side)
        window = without_margin(torch.from_numpy(view.patches[index]).permute(2, 0, 1), WINDOWS.halo_at(index))
        beside = shifts(window.permute(1, 2, 0).numpy(), box, scale, axis)
        assert np.abs(beside).max() < 0.3
        assert abs(np.median(beside)) < 0.1


def test_labels_lie_where_the_picture_does(tmp_path: Path) -> None:
    mask = np.zeros((600, 700), np.uint8)
    mask[200:320, 180:300] = 1
    image = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
    opened = open_sample(sample_of(tmp_path, image, mask), CLASSES)
    view = read_view(opened, ladder_at(opened, MPPS), (46, 40), WINDOWS, Augmentation(1, True))
    for index in range(3):
        halo = WINDOWS.halo_at(index)
        window = view.patches[index][halo:-halo, halo:-halo, 0]
        sure = (window < 50) | (window > 200)
        assert np.array_equal((window > 127)[sure], (view.sets[index] == 2)[sure])
        assert len(np.unique(view.sets[index])) == 2


@given(st.integers(1, 64), st.integers(0, 200), st.integers(2, 4))
def test_halos_are_the_same_on_both_sides_and_at_least_what_is_asked(side: int, halo: int, scales: int) -> None:
    windows = Windows(side << scales, halo, tuple(2.0**-i for i in range(scales)))
    for scale in range(scales):
        assert windows.window_px(scale) + 2 * windows.halo_at(scale) == windows.patch_px(scale)
        assert windows.halo_at(scale) >= halo
        assert windows.patch_px(scale) % 32 == 0


def test_a_window_beyond_the_canvas_is_mirrored_and_not_labelled(tmp_path: Path) -> None:
    opened = coordinates(tmp_path, "x")
    view = read_view(opened, ladder_at(opened, MPPS), (-4, -4), WINDOWS)
    assert (view.sets[2][:16] == opened.ignored).all()
    assert (view.sets[2][16:, 16:] != opened.ignored).all()


def test_one_annotator_is_drawn_for_all_scales_of_a_view(tmp_path: Path) -> None:
    size = Size(320, 320)
    image = coded(size)
    paths = []
    for value in (0, 1):
        paths.append(tmp_path / f"by_{value}.png")
        Pillow.fromarray(np.full(size.hw, value, np.uint8)).save(paths[-1])
    Pillow.fromarray(image).save(tmp_path / "image.png")
    sample = Sample(2, tmp_path / "image.png", tuple(paths), 1.0, "g", "train", consensus="soft")
    opened = open_sample(sample, CLASSES)
    rng = np.random.default_rng(0)
    found = [read_view(opened, ladder_at(opened, MPPS), (10, 10), WINDOWS, rng=rng).sets for _ in range(20)]
    assert {frozenset(int(one) for sets in view for one in np.unique(sets)) for view in found} == {
        frozenset({1}),
        frozenset({2}),
    }


@given(st.integers(1, 500), st.integers(1, 100))
def test_windows_side_by_side_cover_the_length_and_stay_on_it(length: int, side: int) -> None:
    starts = list(_starts(length, side))
    covered = {pixel for start in starts for pixel in range(start, start + side)}
    assert covered >= set(range(length))
    assert max(covered) < max(length, side)
    assert len(starts) == -(-length // side)


def labelled_places(folder: Path, most: int) -> list[int]:
    """How many labelled pixels each validation view holds at the finest scale, of a mask with 4 labelled squares."""
    mask = np.full((330, 500), 255, np.uint8)
    for y, x in ((0, 0), (100, 300), (310, 480), (200, 40)):
        mask[y : y + 20, x : x + 20] = 1
    with_labels = sample_of(folder, coded(Size(500, 330)), mask)
    without = sample_of(folder, coded(Size(300, 300), "y"), np.full((300, 300), 255, np.uint8), row=3)
    views = validation_views(SamplePool(CLASSES), [with_labels, without], WINDOWS, most)
    return [int((view.sets[2] == 2).sum()) for view in views]


def test_validation_sees_every_labelled_pixel_and_nothing_without(tmp_path: Path) -> None:
    found = labelled_places(tmp_path, most=100)
    assert sum(found) >= 4 * 400
    assert min(found) > 0


def test_no_more_validation_views_are_taken_than_allowed(tmp_path: Path) -> None:
    assert len(labelled_places(tmp_path, most=3)) == 3


def test_validation_views_are_the_same_each_time(tmp_path: Path) -> None:
    sample = sample_of(tmp_path, coded(Size(300, 200)), np.ones((200, 300), np.uint8))
    one, two = (validation_views(SamplePool(CLASSES), [sample], WINDOWS, 5) for _ in range(2))
    assert all(
        np.array_equal(a.sets[scale], b.sets[scale]) and np.array_equal(a.patches[scale], b.patches[scale])
        for a, b in zip(one, two, strict=True)
        for scale in range(3)
    )


def test_an_image_smaller_than_a_window_is_one_view(tmp_path: Path) -> None:
    sample = sample_of(tmp_path, coded(Size(30, 20)), np.ones((20, 30), np.uint8))
    (view,) = validation_views(SamplePool(CLASSES), [sample], WINDOWS, 5)
    assert (view.sets[2] == 2).sum() == 600


def test_images_are_normalised_with_the_statistics_of_imagenet() -> None:
    image = np.full((2, 3, 3), (124, 116, 104), np.uint8)
    tensor = to_tensor([image, image], torch.device("cpu"))
    assert tensor.shape == (2, 3, 2, 3)
    assert tensor.abs().max() < 0.02


def test_sets_keep_their_bits() -> None:
    sets = np.array([[1, (1 << 31) - 1]], np.uint32)
    assert to_sets([sets], torch.device("cpu")).tolist() == [[[1, (1 << 31) - 1]]]
