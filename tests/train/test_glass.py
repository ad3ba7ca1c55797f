"""Painted glass: at the same place at every scale, labelled where it is seen, and never a clue in the labels alone."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_magnet.slides.types import Image
from wsi_magnet.train.augment import Augmentation
from wsi_magnet.train.glass import OPEN_GLASS_UM, SCAN_WHITE, Border, Glass, Look, draw_glass, narrowed

BACKGROUND, STROMA, GLAND, UNLABELLED = 1, 2, 4, 7
TISSUE_RGB = (190, 60, 140)
LOOK = Look((240.0, 238.0, 241.0), 0.0, 0.0, 1.0, 0.5, 0)


def tissue(side: int) -> Image:
    return np.full((side, side, 3), TISSUE_RGB, np.uint8)


def stroma(side: int) -> np.ndarray:
    return np.full((side, side), STROMA, np.uint32)


@pytest.mark.parametrize("seed", range(12))
def test_every_scale_shows_the_same_glass(seed: int) -> None:
    """Two by two pixels of a scale are one of the coarser scale."""
    glass = draw_glass(np.random.default_rng(seed), 512.0, BACKGROUND)
    fine, coarse = (glass.labels(stroma(side), mpp) for side, mpp in ((512, 1.0), (256, 2.0)))
    shares = (fine == BACKGROUND).reshape(256, 2, 256, 2).mean(axis=(1, 3))
    sure = (shares == 0) | (shares == 1)
    assert sure.mean() > 0.8
    assert ((coarse == BACKGROUND) == (shares > 0.5))[sure].mean() > 0.995


@pytest.mark.parametrize("seed", range(12))
def test_what_is_painted_is_labelled_and_nothing_else(seed: int) -> None:
    glass = draw_glass(np.random.default_rng(seed), 256.0, BACKGROUND)
    image = glass.empty(glass.image(tissue(256), 1.0), 1.0)
    labelled = glass.labels(stroma(256), 1.0) == BACKGROUND
    changed = np.abs(image.astype(int) - TISSUE_RGB).max(axis=-1) > 30
    assert (changed == labelled).mean() > 0.96  # the border is blurred
    untouched = (image == TISSUE_RGB).all(axis=-1)
    assert not (untouched & labelled).any()


def test_kinds_differ_and_most_crops_keep_tissue() -> None:
    shares = [
        (draw_glass(np.random.default_rng(seed), 256.0, BACKGROUND).labels(stroma(64), 4.0) == BACKGROUND).mean()
        for seed in range(200)
    ]
    assert 0.01 < np.mean(np.equal(shares, 1)) < 0.2
    assert 0.2 < np.mean(shares) < 0.7
    assert np.mean(np.greater(shares, 0)) > 0.85


def test_areas_that_were_not_scanned_stay_white_whatever_the_stain() -> None:
    edge = Glass((Border(0.0, 0.0, (), scanned=False),), LOOK, BACKGROUND, 0)
    restained = Augmentation(
        mixing=0.5 * np.eye(3, dtype=np.float32), light=np.full(3, 0.9, np.float32), glass=edge
    ).image(tissue(64), 1.0)
    assert (restained[:, 32:] == SCAN_WHITE).all()
    assert (restained[:, :32] < 250).any(axis=-1).all()


def test_a_border_lies_where_it_is_said() -> None:
    """Glass beyond a vertical line 10 µm right of the centre."""
    glass = Glass((Border(0.0, 10.0, ()),), LOOK, BACKGROUND, 0)
    labels = glass.labels(stroma(64), 2.0)
    # Centres of columns: (column - 31.5) * 2 µm.
    assert (labels[:, 37:] == BACKGROUND).all()
    assert (labels[:, :37] == STROMA).all()


def test_tissue_is_no_background_and_wide_glass_may_be() -> None:
    image = tissue(200)
    image[20:60, 20:60] = 240  # a cleft of 40 µm
    image[100:, 100:] = 240  # glass 100 µm wide
    sets = np.full((200, 200), BACKGROUND | STROMA, np.uint32)
    sets[:, :10], sets[:10], sets[190:, 190:] = GLAND, UNLABELLED, BACKGROUND
    found = narrowed(sets, image, 1.0, BACKGROUND, UNLABELLED)
    assert OPEN_GLASS_UM < 100
    assert (found[70:90, 20:180] == STROMA).all()
    assert (found[25:55, 25:55] == STROMA).all()
    assert (found[120:180, 120:180] == BACKGROUND | STROMA).all()
    for fixed in (GLAND, UNLABELLED, BACKGROUND):
        assert ((found == fixed) == (sets == fixed)).all()


def test_without_a_background_class_labels_are_unchanged() -> None:
    sets = np.full((20, 20), BACKGROUND | STROMA, np.uint32)
    assert narrowed(sets, tissue(20), 1.0, None, UNLABELLED) is sets
