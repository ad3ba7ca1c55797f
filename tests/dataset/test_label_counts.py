"""Surveys: counts and presence against a loop over all pixels, and labels that nobody knows found anywhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.annotations.made import ALL, CLASSES, GLAND, GLEASON_3, STROMA, feature, square, write_geojson
from tests.dataset.made import made_sample
from wsi_magnet.dataset import label_counts as survey_module
from wsi_magnet.dataset.label_counts import BLOCK_PX, Survey, check_labels, survey
from wsi_magnet.dataset.open_sample import open_sample
from wsi_magnet.dataset.sample import Sample
from wsi_magnet.errors import ManifestError

PIECES = (1, 2, 3, 255)


def surveyed(sample: Sample, mpp: float = 0.25) -> Survey:
    opened = open_sample(sample, CLASSES)
    return survey(opened, opened.scale(mpp))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 99), size=st.tuples(st.integers(1, 200), st.integers(1, 200)), mpp=st.floats(0.2, 0.9))
def test_against_a_loop_over_all_pixels(tmp_path: Path, seed: int, size: tuple[int, int], mpp: float) -> None:
    rng = np.random.default_rng(seed)
    blocks = rng.choice(np.array(PIECES, np.uint8), size=(10, 10), p=[0.2, 0.1, 0.05, 0.65])
    opened = open_sample(
        made_sample(tmp_path, np.kron(blocks, np.ones((20, 20), np.uint8))[: size[0], : size[1]]), CLASSES
    )
    scale = opened.scale(mpp)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey_module, "READ_PX", 2 * BLOCK_PX)
        found = survey(opened, scale)
    presence = np.zeros_like(found.presence)
    counts: Counter[int] = Counter()
    for (y, x), labels in np.ndenumerate(opened.sets(scale, scale.grid)):
        if labels != ALL:
            presence[y // BLOCK_PX, x // BLOCK_PX] |= labels
            counts[int(labels)] += 1
    assert (found.counts, found.presence.tolist()) == (dict(counts), presence.tolist())


def test_the_squares_cover_the_grid(tmp_path: Path) -> None:
    found = surveyed(made_sample(tmp_path, np.full((65, 129), 1, np.uint8)))
    assert (found.presence.tolist(), found.block_px) == ([[STROMA] * 3] * 2, 64)


def test_a_pixel_of_several_classes_counts_in_equal_parts(tmp_path: Path) -> None:
    mask = np.array([[1, 2, 2, 255]], np.uint8)
    found = surveyed(made_sample(tmp_path, mask, labels="2=stroma|benign gland"))
    assert found.class_pixels(len(CLASSES)).tolist() == [0, 2, 1, 0]


def test_what_lies_on_top_counts(tmp_path: Path) -> None:
    top, below = np.array([[1, 255]], np.uint8), np.array([[3, 3]], np.uint8)
    assert surveyed(made_sample(tmp_path, top, below)).counts == {STROMA: 1, GLEASON_3: 1}


def test_annotators_count_together(tmp_path: Path) -> None:
    one, other = np.array([[1, 1, 255, 255]], np.uint8), np.array([[2, 1, 3, 255]], np.uint8)
    found = surveyed(made_sample(tmp_path, one, other, consensus="majority"))
    assert found.counts == {STROMA: 1, GLEASON_3: 1, STROMA | GLAND: 1}


def test_regions_are_counted(tmp_path: Path) -> None:
    regions = write_geojson(tmp_path / "a.geojson", feature([square(0, 0, 10, 8)]))
    assert surveyed(made_sample(tmp_path, annotations=[regions]), mpp=0.5).counts == {STROMA: 20}


def test_an_unknown_label_is_found_where_no_pixel_of_the_scale_has_its_centre(tmp_path: Path) -> None:
    mask = np.ones((64, 64), np.uint8)
    mask[63, 0] = 77
    with pytest.raises(ManifestError, match=r"^row 7: .*mask_0\.png: unknown label 77"):
        surveyed(made_sample(tmp_path, mask), mpp=2.0)


def test_labels_are_checked_in_every_annotation(tmp_path: Path) -> None:
    opened = open_sample(made_sample(tmp_path, np.ones((4, 4), np.uint8), np.full((4, 4), 9, np.uint8)), CLASSES)
    with pytest.raises(ManifestError, match=r"^row 7: .*mask_1\.png: unknown label 9"):
        check_labels(opened)


def test_known_labels_pass(tmp_path: Path) -> None:
    opened = open_sample(made_sample(tmp_path, np.ones((4, 4), np.uint8)), CLASSES)
    check_labels(opened)
    opened.close()
