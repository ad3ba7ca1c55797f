"""Rows against their halves: counts pixel by pixel, and the pairing of results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluate.made import (
    MPP,
    MadeOpener,
    bundle_at,
    paint,
    patchwork,
    result_of,
    sample_of,
    stay_here,
    two_scales,
)
from tests.runs import write_bundle
from wsi_magnet.config import Execution
from wsi_magnet.dataset.sample import Sample
from wsi_magnet.evaluate import ground_truth as truth_module
from wsi_magnet.evaluate.columns import ACCURACY, HALVES, HEADROOM, MENDED
from wsi_magnet.evaluate.comparison import Conditions, candidates, compare_methods, compare_results
from wsi_magnet.evaluate.counts import count
from wsi_magnet.evaluate.ground_truth import Target
from wsi_magnet.evaluate.halves import Halves, find_halves
from wsi_magnet.evaluate.methods import MethodRow, all_rows, choose
from wsi_magnet.evaluate.prediction import Prediction, find_results
from wsi_magnet.evaluate.report import Report, make_report
from wsi_magnet.evaluate.serialise import to_csv, to_json
from wsi_magnet.evaluate.tables import notes, tables
from wsi_magnet.metrics import halves as against
from wsi_magnet.metrics.confusion import UNLABELLED

APART = Target((0, 1, 2), ("red", "green", "blue"), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
POSTER_ROWS = ("patching", "downsample", "magnet")


@pytest.fixture(autouse=True)
def at_work_here(monkeypatch: pytest.MonkeyPatch) -> None:
    stay_here(monkeypatch)


def quiet(text: str) -> None:
    """Hears nothing."""


def share(parts: Sequence[object], whole: Sequence[object]) -> float:
    return len(parts) / len(whole) if whole else float("nan")


PIXELS = st.lists(st.tuples(st.integers(-1, 2), *[st.integers(0, 3)] * 3), max_size=30)


@given(PIXELS)
def test_every_share_is_that_of_its_pixels(pixels: list[tuple[int, int, int, int]]) -> None:
    truth, coarse, fine, result = (np.array([one[i] for one in pixels], np.int64) for i in range(4))
    counts = against.agreement(truth, coarse=coarse, fine=fine, result=result)
    known = [(c == t, f == t, r == t) for t, c, f, r in pixels if t != UNLABELLED]
    fine_alone = [one for one in known if one[1] and not one[0]]
    coarse_alone = [one for one in known if one[0] and not one[1]]
    either = [one for one in known if one[0] or one[1]]
    better = max(sum(one[0] for one in known), sum(one[1] for one in known))
    gain, room = sum(one[2] for one in known) - better, len(either) - better
    expected = {
        against.fine_alone_right: share(fine_alone, known),
        against.mended: share([one for one in fine_alone if one[2]], fine_alone),
        against.coarse_alone_right: share(coarse_alone, known),
        against.spoiled: share([one for one in coarse_alone if not one[2]], coarse_alone),
        against.oracle: share(either, known),
        against.headroom: gain / room if room else float("nan"),
    }
    for metric, value in expected.items():
        assert float(metric(counts)) == pytest.approx(value, nan_ok=True)


def test_headroom_is_1_for_the_oracle_0_for_the_better_half_and_negative_below_it() -> None:
    truth = np.zeros(10, np.int64)
    coarse, fine = np.array([0] * 6 + [1] * 4), np.array([1] * 2 + [0] * 4 + [0] * 2 + [1] * 2)
    oracle = np.minimum(coarse, fine)
    found = [
        float(against.headroom(against.agreement(truth, coarse=coarse, fine=fine, result=result)))
        for result in (oracle, coarse, np.ones(10, np.int64))
    ]
    assert found == [1, 0, -3]


def data(folder: Path, count: int) -> tuple[list[Sample], MadeOpener]:
    """Painted images of a patient each; a part of what is true differs from what is painted."""
    painted = {f"image{i}": patchwork(i) for i in range(count)}
    samples = [
        sample_of(paint(folder / f"{name}.png", own), row=2 + i, group=f"patient {i}")
        for i, (name, own) in enumerate(painted.items())
    ]
    true = {name: np.where(np.arange(150)[:, None] < 40, np.roll(own, 3, 1), own) for name, own in painted.items()}
    return samples, MadeOpener(true)


def compared(folder: Path, *, keep: bool = False, names: Sequence[str] = POSTER_ROWS, reverse: bool = False) -> Report:
    samples, opener = data(folder, 2)
    rows = candidates(choose(all_rows(0.25), names), [bundle_at(folder)])
    conditions = Conditions(False, Execution(), folder / "results", keep)
    found = compare_methods(samples, opener, rows[::-1] if reverse else rows, conditions, quiet)
    return make_report(found, resamples=20)


def test_blocks_count_as_the_whole_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, opener = data(tmp_path, 1)
    image, bundle = samples[0].image, bundle_at(tmp_path)
    results = {
        name: Prediction(result_of(image, bundle, tmp_path / name, method=name, refine="all"))
        for name in ("Downsample", "Patching", "MagNet")
    }
    truth = opener(samples[0], two_scales().classes)
    scale = truth.scale(MPP)
    labels = np.select([truth.level0 == 1 << i for i in range(3)], range(3), -1)
    own: dict[str, npt.NDArray[np.int64]] = {
        name: one.read(APART, scale, scale.grid).parts for name, one in results.items()
    }
    monkeypatch.setattr(truth_module, "BLOCK_PX", 37)
    halves = Halves(coarse=results["Downsample"], fine=results["Patching"])
    counts = count(truth, scale, results["MagNet"], APART, (2.0,), halves)
    whole = against.agreement(labels, coarse=own["Downsample"], fine=own["Patching"], result=own["MagNet"])
    assert np.array_equal(counts.agreement, whole)
    assert counts.agreement.sum() == counts.confusion.sum() == labels.size
    assert not count(truth, scale, results["MagNet"], APART, (2.0,)).agreement.any()


def test_refining_rows_alone_are_held_against_both_halves(tmp_path: Path) -> None:
    report = compared(tmp_path, reverse=True)
    assert [row.name for row in report.comparison.rows] == ["MagNet", "Downsample", "Patching"]
    assert [row.has_halves for row in report.comparison.rows] == [True, False, False]
    magnet = report.comparison.rows[0]
    agreement = np.sum([one.agreement for one in magnet.counts], axis=0)
    for axes, name in (((1, 2), "Downsample"), ((0, 2), "Patching"), ((0, 1), "MagNet")):
        right = agreement.sum(axes)[1] / agreement.sum()
        assert report.draws[name].value[ACCURACY] == pytest.approx(right)
    assert 0 < report.estimate(magnet, MENDED).value <= 1
    assert not (tmp_path / "results" / "Patching").exists()
    table = tables(report)[1]
    assert table.head == ("method", "accuracy %", "mended %", "spoiled %", "headroom %")
    assert [row[0] for row in table.rows] == ["MagNet"]
    assert any(note.startswith("of the labelled pixels Patching alone has") for note in notes(report))
    values = to_json(report)["rows"]
    assert values[0]["measures"][HEADROOM]["low"] is not None
    assert values[1]["measures"][HEADROOM]["value"] is None
    json.dumps(values, allow_nan=False)
    assert f"MagNet,free,{HEADROOM}," in to_csv(report)


@pytest.mark.slow
def test_kept_results_say_the_same(tmp_path: Path) -> None:
    first = compared(tmp_path, keep=True)
    samples, opener = data(tmp_path, 2)
    rows = find_results([tmp_path / "results" / name for name in ("Patching", "MagNet", "Downsample")])
    again = make_report(compare_results(samples, opener, rows, quiet), resamples=20)
    for one in HALVES:
        assert again.draws["MagNet"].estimate(one.key) == first.draws["MagNet"].estimate(one.key)


def test_without_both_halves_there_is_nothing_to_say_of_them(tmp_path: Path) -> None:
    report = compared(tmp_path, names=("patching", "magnet"))
    assert not any(row.has_halves for row in report.comparison.rows)
    assert not set(report.measures) & set(HALVES)
    assert not any("oracle" in note for note in notes(report))


@dataclass(frozen=True)
class MadeResult:
    """What pairing looks at."""

    method: str
    bundle: str
    identity: str


def made(method: str, *slides: str) -> list[Prediction]:
    """Results of slides with a bundle each: "a1" is slide 1 with bundle a."""
    return [cast(Prediction, MadeResult(method, slide[0], slide[1])) for slide in slides]


def test_halves_are_those_of_the_bundle_and_the_slide() -> None:
    rows = [made(method, "a1", "b2") for method in ("MagNet", "Patching", "Downsample")]
    found = find_halves(rows[0], rows)
    assert found is not None
    assert [(one.coarse, one.fine) for one in found] == list(zip(rows[2], rows[1], strict=True))
    assert find_halves(made("GF", "b2"), rows) is not None
    for other in (made("MagNet", "a1", "b1"), made("MagNet", "a2"), made("Patching", "a1"), []):
        assert find_halves(other, rows) is None
    assert find_halves(rows[0], rows[:2]) is None


@pytest.mark.slow
def test_rows_of_folds_are_held_against_the_halves_of_each(tmp_path: Path) -> None:
    samples, opener = data(tmp_path, 2)
    folds = [write_bundle(tmp_path / f"{i}.safetensors", two_scales(name=f"fold {i}", halo_px=32 * i)) for i in (1, 2)]
    results = {
        name: [
            Prediction(result_of(sample.image, bundle, tmp_path / name, method=name, refine="all"))
            for sample, bundle in zip(samples, folds, strict=True)
        ]
        for name in ("Downsample", "Patching", "MagNet")
    }
    report = make_report(compare_results(samples, opener, results, quiet), resamples=20)
    (row,) = (one for one in report.comparison.rows if one.has_halves)
    assert (row.name, row.bundle) == ("MagNet", "fold 1, fold 2")


@pytest.mark.slow
def test_several_bundles_are_each_held_against_their_own_halves(tmp_path: Path) -> None:
    samples, opener = data(tmp_path, 1)
    bundles = [
        write_bundle(tmp_path / f"{name}.safetensors", two_scales(name=name, select_above=above))
        for name, above in {"a": (0.05,), "b": (0.9,)}.items()
    ]
    methods = [MethodRow(name, name) for name in ("Patching", "Downsample", "MagNet")]
    conditions = Conditions(False, Execution(), tmp_path / "results", keep_results=False)
    found = compare_methods(samples, opener, candidates(methods, bundles), conditions, quiet)
    assert [row.name for row in found.rows if row.has_halves] == ["MagNet [a]", "MagNet [b]"]
    report = make_report(replace(found, reference="MagNet [b]"), resamples=20)
    assert sum(note.startswith(("a: of the", "b: of the")) for note in notes(report)) == 2
