"""Counting block by block."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from tests.evaluate.made import (
    MPP,
    MadeOpener,
    MadeTruth,
    bundle_at,
    paint,
    patchwork,
    result_of,
    sample_of,
    two_scales,
)
from wsi_magnet.evaluate import ground_truth as truth_module
from wsi_magnet.evaluate.counts import Counts, count
from wsi_magnet.evaluate.ground_truth import Target
from wsi_magnet.evaluate.prediction import Prediction

APART = Target((0, 1, 2), ("red", "green", "blue"), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
TOLERANCES_UM = (2.0, 5.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[MadeTruth, Prediction]:
    """What is true differs from what is painted in a part, and is not labelled in another."""
    folder = tmp_path_factory.mktemp("counts")
    painted = patchwork(1)
    image = paint(folder / "a.png", painted)
    true = painted.copy()
    true[:60] = patchwork(2)[:60]
    true[100:, 50:120] = -1
    result = result_of(image, bundle_at(folder), folder / "out", refine=0.0)
    return MadeOpener({"a": true})(sample_of(image), two_scales().classes), Prediction(result)


def counted(made: tuple[MadeTruth, Prediction]) -> Counts:
    truth, prediction = made
    return count(truth, truth.scale(MPP), prediction, APART, TOLERANCES_UM)


def test_blocks_count_as_the_whole(made: tuple[MadeTruth, Prediction], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = counted(made)
    monkeypatch.setattr(truth_module, "BLOCK_PX", 37)
    parts = counted(made)
    assert np.array_equal(parts.confusion, whole.confusion)
    assert np.array_equal(parts.boundary, whole.boundary)
    assert np.allclose(parts.calibration, whole.calibration)


def test_labelled_pixels_are_held_against_the_answers(made: tuple[MadeTruth, Prediction]) -> None:
    truth, prediction = made
    scale = truth.scale(MPP)
    answers = prediction.read(APART, scale, scale.grid).parts
    true = np.select([truth.level0 == 1 << i for i in range(3)], range(3), -1)
    assert np.array_equal(
        counted(made).confusion[:, :3], sk.confusion_matrix(true[true >= 0], answers[true >= 0], labels=range(3))
    )


def test_every_labelled_pixel_is_in_the_histogram(made: tuple[MadeTruth, Prediction]) -> None:
    counts = counted(made)
    assert counts.calibration[0].sum() == counts.confusion.sum()
    assert counts.calibration[2].sum() == np.trace(counts.confusion[:, :3])


def test_counts_add_up() -> None:
    one = Counts(np.ones((2, 3), np.int64), np.ones((1, 4), np.int64), np.ones((3, 15)))
    summed = Counts.stack([one, one + one]).summed(np.array([[1, 0], [0, 2], [3, 1]]))
    assert summed.confusion[:, 0, 0].tolist() == [1, 4, 5]
    assert summed.boundary[:, 0, 0].tolist() == [1, 4, 5]
    assert summed.calibration[:, 0, 0].tolist() == [1, 4, 5]
