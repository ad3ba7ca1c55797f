"""Finished results as answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.made import bundle_at, paint, patchwork, result_of
from tests.runs import labels_of
from wsi_magnet.errors import ConfigError, ResultMismatchError, StoreError
from wsi_magnet.evaluate.ground_truth import Target
from wsi_magnet.evaluate.prediction import Prediction, find_results
from wsi_magnet.geometry import Box
from wsi_magnet.results.pyramid import Pyramid

APART = Target((0, 1, 2), ("red", "green", "blue"), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
JOINED = Target((0, 1, 0), ("red/blue", "green"), ((1, 0, 0), (0, 1, 0)))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("result")
    return result_of(paint(folder / "a.png", patchwork(1)), bundle_at(folder), folder / "out")


def probabilities(result: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return labels_of(result, 0, "probabilities").astype(np.int64)


def test_on_its_own_grid_it_answers_what_is_stored(result: Path) -> None:
    one, p = Prediction(result), probabilities(result)
    answer = one.read(APART, one.scale, one.scale.grid)
    assert answer.confidence is not None
    assert np.array_equal(answer.parts, p.argmax(0))
    assert np.allclose(answer.confidence, p.max(0) / p.sum(0), atol=1e-6)


def test_probabilities_of_joined_classes_are_added(result: Path) -> None:
    one, p = Prediction(result), probabilities(result)
    answer = one.read(JOINED, one.scale, Box(10, 20, 90, 80))
    assert np.array_equal(answer.parts == 1, (p[1] > p[0] + p[2])[20:80, 10:90])


def test_without_probabilities_its_mask_answers(tmp_path: Path) -> None:
    plain = result_of(
        paint(tmp_path / "a.png", patchwork(1)), bundle_at(tmp_path), tmp_path / "out", keep_probabilities=False
    )
    one = Prediction(plain)
    answer = one.read(APART, one.scale, one.scale.grid)
    assert answer.confidence is None
    assert np.array_equal(answer.parts, labels_of(plain).astype(int) - 1)


def test_what_was_not_analysed_or_is_no_tissue_is_no_answer(tmp_path: Path) -> None:
    result = result_of(paint(tmp_path / "a.png", patchwork(1)), bundle_at(tmp_path), tmp_path / "out")
    one = Prediction(result)
    pyramid = one._probabilities
    assert isinstance(pyramid, Pyramid)
    pyramid.write(0, Box(0, 0, 50, 50), np.ones((3, 50, 50), np.uint8))
    pyramid.write(0, Box(100, 0, 150, 50), np.zeros((3, 50, 50), np.uint8))
    parts = one.read(APART, one.scale, one.scale.grid).parts
    assert (parts[:50, :50] == 3).all()
    assert (parts[:50, 100:150] == 3).all()
    assert (parts[50:] < 3).all()


def test_no_tissue_is_background_where_the_bundle_has_it(tmp_path: Path) -> None:
    from wsi_magnet.nets.spec import ClassInfo

    classes = (ClassInfo("red", 1, (1, 0, 0)), ClassInfo("green", 2, (0, 1, 0)), ClassInfo("background", 0, (0, 0, 0)))
    image, bundle = paint(tmp_path / "a.png", patchwork(1)), bundle_at(tmp_path, classes=classes)
    one = Prediction(result_of(image, bundle, tmp_path / "out"))
    assert isinstance(one._probabilities, Pyramid)
    one._probabilities.write(0, Box(100, 0, 150, 50), np.zeros((3, 50, 50), np.uint8))
    assert (one.read(APART, one.scale, Box(100, 0, 150, 50)).parts == 2).all()


def test_a_result_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    result = result_of(paint(tmp_path / "a.png", patchwork(1)), bundle_at(tmp_path), tmp_path / "out")
    path = result / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "running"}))
    with pytest.raises(ResultMismatchError, match="is not finished; resume"):
        Prediction(result)


def test_results_in_one_folder_are_a_row(result: Path) -> None:
    assert [list(find_results([path])) for path in (result, result.parent, result.parent.parent)] == [
        ["out"],
        ["out"],
        [result.parent.parent.name],
    ]


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"is not a result folder and contains none"):
        find_results([tmp_path])


def test_two_results_of_one_slide_in_a_row_are_refused(tmp_path: Path) -> None:
    bundle = bundle_at(tmp_path)
    for name in ("a.png", "b.png"):
        result_of(paint(tmp_path / name, patchwork(1)), bundle, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"are both results of"):
        find_results([tmp_path / "out"])
