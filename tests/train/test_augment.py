"""Augmentation: labels go with their image, nothing happens where all is off, the same drawn twice is the same."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train.made import glands
from wsi_magnet.slides.types import Image
from wsi_magnet.train.augment import DENSITY, Augmentation, compress, draw_augmentation, restain
from wsi_magnet.train.config import AugmentConfig

OUTSIDE = 7
MPP = 1.0
NOTHING = AugmentConfig(
    flips=False, scale_jitter=1.0, stain=0.0, light=0.0, rotation=0.0, blur=0.0, jpeg=0.0, glass=0.0
)
IDENTITY, FULL_LIGHT = np.eye(3, dtype=np.float32), np.ones(3, np.float32)
orientations = pytest.mark.parametrize(
    "augmentation", [Augmentation(turns, mirrored) for turns in range(4) for mirrored in (False, True)]
)


def places(height: int, width: int) -> tuple[Image, npt.NDArray[np.uint32]]:
    """An image whose red and green say the column and row of each pixel, and sets that say them too."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x, y, 0 * x], axis=-1).astype(np.uint8), (x + 1000 * y).astype(np.uint32)


def draw(config: AugmentConfig, rng: np.random.Generator) -> Augmentation:
    """An augmentation of a small crop of classes without background."""
    return draw_augmentation(config, rng, extent_um=64.0, background=None)


def test_nothing_is_changed_where_all_is_off() -> None:
    image, sets = places(20, 30)
    augmentation = draw(NOTHING, np.random.default_rng(0))
    assert np.array_equal(augmentation.image(image, MPP), image)
    assert np.array_equal(augmentation.labels(sets, OUTSIDE, MPP), sets)


@orientations
def test_labels_turn_exactly_with_the_image(augmentation: Augmentation) -> None:
    image, sets = places(20, 30)
    turned = augmentation.image(image, MPP).astype(np.uint32)
    assert np.array_equal(turned[..., 0] + 1000 * turned[..., 1], augmentation.labels(sets, OUTSIDE, MPP))


def test_the_eight_orientations_differ() -> None:
    image, _ = places(9, 9)
    found = {
        Augmentation(turns, mirrored).image(image, MPP).tobytes() for turns in range(4) for mirrored in (False, True)
    }
    assert len(found) == 8


def test_upright_pictures_are_mirrored_and_not_turned() -> None:
    upright = [draw(AugmentConfig(upright=True), np.random.default_rng(seed)) for seed in range(40)]
    turning = [draw(AugmentConfig(), np.random.default_rng(seed)) for seed in range(40)]
    assert {(one.quarter_turns, one.mirrored) for one in upright} == {(0, False), (0, True)}
    assert {one.quarter_turns for one in turning} == {0, 1, 2, 3}
    assert [one.mirrored for one in upright] == [one.mirrored for one in turning]


@given(st.floats(-45, 45), st.integers(0, 3), st.booleans(), st.sampled_from([48, 49]))
def test_labels_stay_within_a_pixel_of_a_rotated_image(degrees: float, turns: int, mirrored: bool, side: int) -> None:
    image, sets = places(side, side)
    augmentation = Augmentation(turns, mirrored, degrees)
    turned, labels = augmentation.image(4 * image, MPP).astype(float) / 4, augmentation.labels(sets, OUTSIDE, MPP)
    known = labels != OUTSIDE
    column, row = labels % 1000, labels // 1000
    beside = np.hypot(turned[..., 0] - column, turned[..., 1] - row)[known]
    # Near the rim the picture is mixed with its mirror image.
    inside = (np.minimum(column, row) > 1) & (np.maximum(column, row) < side - 2)
    assert beside[inside[known]].max() <= 1.0


def test_what_a_rotation_brings_in_is_not_labelled() -> None:
    sets = np.full((40, 40), 2, np.uint32)
    labels = Augmentation(degrees=30).labels(sets, OUTSIDE, MPP)
    assert {int(labels[0, 0]), int(labels[20, 20])} == {OUTSIDE, 2}


def test_a_rotation_does_not_mix_labels() -> None:
    _, mask = glands(0, 64)
    sets = np.where(mask == 1, np.uint32(1 << 30), np.uint32(1))
    assert set(np.unique(Augmentation(degrees=17).labels(sets, (1 << 31) - 1, MPP)).tolist()) == {
        1,
        1 << 30,
        (1 << 31) - 1,
    }


def test_a_rotated_picture_has_no_dark_corners() -> None:
    image = np.full((40, 40, 3), 200, np.uint8)
    assert (Augmentation(degrees=33).image(image, MPP) == 200).all()


def test_other_stain_of_the_identity_is_the_image_within_rounding() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 30, 3)).astype(np.uint8)
    changed = restain(image, IDENTITY, FULL_LIGHT)
    assert np.abs(changed.astype(int) - image).max() <= 1


def test_twice_the_density_is_the_colour_squared() -> None:
    image = np.full((1, 1, 3), 128, np.uint8)
    assert (restain(image, 2 * IDENTITY, FULL_LIGHT) == round(255 * (128 / 255) ** 2)).all()


def test_less_light_is_a_darker_picture() -> None:
    image = np.full((1, 1, 3), 200, np.uint8)
    assert restain(image, IDENTITY, np.array([0.9, 1.0, 1.0], np.float32)).tolist() == [[[180, 200, 200]]]


def test_glass_stays_white_whatever_the_stain() -> None:
    image = np.full((4, 4, 3), 255, np.uint8)
    augmentation = draw(AugmentConfig(stain=0.4, light=0.0, jpeg=0, blur=0), np.random.default_rng(3))
    assert (augmentation.image(image, MPP) == 255).all()


def test_densities_are_those_of_a_division_by_white() -> None:
    assert np.allclose(np.exp(-DENSITY[1:]) * 255, np.arange(1, 256), rtol=1e-5)


def test_compression_keeps_shape_and_roughly_the_colours() -> None:
    image, _ = glands(1, 48)
    assert np.abs(compress(image, 95).astype(int) - image).mean() < 5


def test_the_same_generator_draws_the_same_bend() -> None:
    image, sets = places(32, 32)
    config = AugmentConfig(rotation=20, blur=0.5, jpeg=0.5)
    for seed in range(8):
        one, two = (draw(config, np.random.default_rng(seed)) for _ in range(2))
        assert np.array_equal(one.image(image, MPP), two.image(image, MPP))
        assert np.array_equal(one.labels(sets, OUTSIDE, MPP), two.labels(sets, OUTSIDE, MPP))


@pytest.mark.parametrize("changes", [{"flips": False}, {"rotation": 30.0}, {"stain": 0.0, "light": 0.0}, {"blur": 0.0}])
def test_what_is_turned_on_leaves_the_other_draws_as_they_are(changes: dict[str, float]) -> None:
    config = AugmentConfig(jpeg=1.0)
    others = AugmentConfig(**{**{"jpeg": 1.0}, **changes})  # type: ignore[arg-type]  # booleans and floats by name
    for seed in range(5):
        assert draw(config, np.random.default_rng(seed)).quality == draw(others, np.random.default_rng(seed)).quality


def test_shares_of_blur_and_compression_are_kept() -> None:
    rng = np.random.default_rng(0)
    bends = [draw(AugmentConfig(blur=0.25, jpeg=0.75), rng) for _ in range(800)]
    assert abs(np.mean([augmentation.blur_px > 0 for augmentation in bends]) - 0.25) < 0.05
    assert abs(np.mean([augmentation.quality is not None for augmentation in bends]) - 0.75) < 0.05
