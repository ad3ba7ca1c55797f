"""The whole flow on painted images, its methods at work in this process."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

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
from wsi_magnet.errors import BundleError, ConfigError, ManifestError
from wsi_magnet.evaluate.bootstrap import Estimate
from wsi_magnet.evaluate.columns import MIOU, measures
from wsi_magnet.evaluate.comparison import (
    Comparison,
    Conditions,
    ScoredRow,
    candidates,
    compare_methods,
    compare_results,
)
from wsi_magnet.evaluate.figure import LEAST_SPAN, _limits, draw_comparison, draw_curve
from wsi_magnet.evaluate.methods import MethodRow, all_rows, choose
from wsi_magnet.evaluate.prediction import find_results
from wsi_magnet.evaluate.report import make_report
from wsi_magnet.evaluate.serialise import to_csv, to_json
from wsi_magnet.evaluate.tables import curve_table, notes, tables
from wsi_magnet.nets.spec import ClassInfo


@pytest.fixture(autouse=True)
def at_work_here(monkeypatch: pytest.MonkeyPatch) -> None:
    stay_here(monkeypatch)


def quiet(text: str) -> None:
    """Hears nothing."""


def data(folder: Path, count: int) -> tuple[list[Sample], MadeOpener]:
    """Painted images of a patient each, and the truth of them."""
    classes = {f"image{i}": patchwork(i) for i in range(count)}
    samples = [
        sample_of(paint(folder / f"{name}.png", own), row=2 + i, group=f"patient {i}")
        for i, (name, own) in enumerate(classes.items())
    ]
    return samples, MadeOpener(classes)


def conditions(folder: Path, *, keep: bool = False) -> Conditions:
    return Conditions(False, Execution(), folder / "results", keep)


@pytest.mark.slow
def test_the_posters_rows_are_ranked_as_they_must_be(tmp_path: Path) -> None:
    samples, opener = data(tmp_path, 2)
    rows = candidates(choose(all_rows(0.25), []), [bundle_at(tmp_path)])
    report = make_report(compare_methods(samples, opener, rows, conditions(tmp_path), quiet), resamples=50)
    miou = {name: draws.value[MIOU] for name, draws in report.draws.items()}
    assert miou["Patching"] == 1  # colours are the classes, and nothing is mixed at the finest scale
    assert miou["Downsample"] < miou["MagNet"] <= 1
    assert report.comparison.reference == "MagNet"
    assert not (tmp_path / "results" / "MagNet").exists()
    sides = [image.megapixels for image in report.comparison.images]
    assert sides == [150 * 190 / 1e6] * 2


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("compared")
    samples, opener = data(folder, 2)
    with pytest.MonkeyPatch.context() as patch:
        stay_here(patch)
        methods = [MethodRow("auto", refine="auto"), *(MethodRow(f"{f:g}", refine=f) for f in (0.0, 1.0))]
        return compare_methods(samples, opener, candidates(methods, [bundle_at(folder)]), conditions(folder), quiet)


def test_a_report_is_the_same_each_time_and_can_be_read_by_machines(compared: Comparison) -> None:
    one, other = (make_report(compared, resamples=30, seed=4) for _ in range(2))
    assert json.dumps(to_json(one), allow_nan=False) == json.dumps(to_json(other))
    assert to_csv(one) == to_csv(other)
    assert to_csv(one).count("\n") == 1 + 3 * len(one.measures)
    assert to_json(one)["rows"][0]["measures"]["miou"]["difference"]["low"] is not None


def test_tables_have_a_row_a_method_and_a_cell_a_column(compared: Comparison) -> None:
    for table in tables(make_report(compared, resamples=30)):
        assert [row[0] for row in table.rows] == ["auto", "0", "1"]
        assert {len(row) for row in table.rows} == {len(table.head)}


def test_the_curve_runs_from_nothing_to_everything(compared: Comparison) -> None:
    assert [row[1] for row in curve_table(make_report(compared, resamples=30)).rows][1:] == ["0.0", "100.0"]


def test_pictures_are_drawn_with_and_without_intervals(compared: Comparison) -> None:
    alone = replace(compared, images=tuple(replace(i, sample=replace(i.sample, group="one")) for i in compared.images))
    for one in (compared, alone):
        report = make_report(one, resamples=30)
        for png in (draw_comparison(report), draw_curve(report)):
            assert min(Image.open(BytesIO(png)).size) > 200


def test_a_single_row_has_no_difference(compared: Comparison) -> None:
    one = replace(compared, rows=compared.rows[-1:], reference=compared.rows[-1].name)
    report = make_report(one, resamples=30)
    assert tables(report)[0].head == ("method", "mIoU %", "memory MB", "s/megapixel")
    assert not any("difference" in note for note in notes(report))
    assert min(Image.open(BytesIO(draw_comparison(report))).size) > 150


def test_what_is_shown_of_a_measure_is_also_explained(compared: Comparison) -> None:
    report = make_report(compared, resamples=30)
    assert any(note.startswith("quadratic kappa takes") for note in notes(report))
    assert not any("Gleason" in note for note in notes(report))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["stroma", "gland"], set()),
        (["stroma", "gland", "lumen"], {"quadratic_kappa"}),
        (["stroma", "Gleason 3/Gleason 4"], set()),
        (["stroma", "Gleason 3", "lumen"], {"quadratic_kappa"}),
        (["gleason 3", "Gleason 4"], {"gleason2019"}),
        (["stroma", "Gleason 3", "Gleason 4", "Gleason 5"], {"quadratic_kappa", "gleason2019"}),
    ],
)
def test_measures_are_those_that_mean_something_for_the_classes(names: list[str], expected: set[str]) -> None:
    keys = {one.key for one in measures(names, [10.0])}
    assert keys & {"quadratic_kappa", "gleason2019"} == expected


def test_means_may_leave_classes_out(compared: Comparison) -> None:
    full, part = (make_report(compared, resamples=30, mean_without=names) for names in ((), ("RED", "blue")))
    for row in compared.rows:
        assert part.estimate(row, "miou") == part.estimate(row, "iou: green") == full.estimate(row, "iou: green")
        assert part.estimate(row, "iou: red") == full.estimate(row, "iou: red")
    assert "means over green" in notes(part)[1]


def test_means_without_unknown_classes_or_without_all_are_refused() -> None:
    with pytest.raises(ConfigError, match="'gren'; they are red, green"):
        measures(["red", "green"], [10.0], ["gren"])
    with pytest.raises(ConfigError, match="leave one in"):
        measures(["red", "green"], [10.0], ["red", "green"])


SHARES = st.floats(0, 1) | st.just(float("nan"))


@given(st.lists(st.tuples(SHARES, SHARES, SHARES), min_size=1, max_size=5))
def test_an_axis_of_percentages_shows_all_numbers_ends_at_100_and_is_never_tiny(
    rows: list[tuple[float, float, float]],
) -> None:
    low, high = _limits([Estimate(*row) for row in rows])
    assert 0 <= low < high <= 100
    assert high - low >= LEAST_SPAN - 1e-9
    assert all(low - 1e-9 <= 100 * one <= high + 1e-9 for row in rows for one in row if not np.isnan(one))


def test_one_group_is_said_to_have_no_interval(compared: Comparison) -> None:
    alone = replace(compared, images=tuple(replace(i, sample=replace(i.sample, group="one")) for i in compared.images))
    report = make_report(alone)
    assert "[" not in tables(report)[0].rows[0][1]
    assert any("at least two groups" in note for note in notes(report))


def test_one_image_of_one_group_is_counted_in_the_singular(compared: Comparison) -> None:
    report = make_report(replace(compared, images=compared.images[:1], rows=tuple(_first_only(compared))))
    assert notes(report)[0].startswith("1 image of 1 group; ")


def _first_only(comparison: Comparison) -> list[ScoredRow]:
    """The rows with their first image alone."""
    return [replace(row, counts=row.counts[:1], seconds=None) for row in comparison.rows]


def test_two_images_of_one_name_do_not_meet(tmp_path: Path) -> None:
    samples, opener = data(tmp_path, 1)
    (tmp_path / "other").mkdir()
    again = sample_of(paint(tmp_path / "other" / "image0.png", patchwork(0)[::-1]), row=3)
    flipped = MadeOpener({"image0": patchwork(0)[::-1]})
    rows = candidates(choose(all_rows(0.25), ["patching"]), [bundle_at(tmp_path)])
    found = compare_methods(
        [*samples, again],
        lambda sample, classes: (flipped if sample.row == 3 else opener)(sample, classes),
        rows,
        conditions(tmp_path, keep=True),
        quiet,
    )
    assert make_report(found).draws["Patching"].value[MIOU] == 1


def test_several_bundles_are_named(tmp_path: Path) -> None:
    bundles = [write_bundle(tmp_path / f"{name}.safetensors", two_scales(name=name)) for name in ("a", "b")]
    samples, opener = data(tmp_path, 1)
    found = compare_methods(samples, opener, candidates([MethodRow()], bundles), conditions(tmp_path), quiet)
    assert [row.name for row in found.rows] == ["MagNet [a]", "MagNet [b]"]
    assert found.reference == "MagNet [a]"


def test_images_coarser_than_the_bundle_are_noted_or_refused(tmp_path: Path) -> None:
    samples, opener = data(tmp_path, 1)
    spec = two_scales(mpps=(0.25,), temperature=(1.0,), refiner_of=(), select_above=(), refine_above=())
    told: list[str] = []
    rows = candidates([MethodRow()], [write_bundle(tmp_path / "finer.safetensors", spec)])
    compare_methods(samples, opener, rows, conditions(tmp_path), told.append)
    assert "the mask is a guess" in told[0]
    rows = candidates([MethodRow()], [write_bundle(tmp_path / "finest.safetensors", replace(spec, mpps=(0.2,)))])
    with pytest.raises(ConfigError, match=r"2\.5 times as coarse"):
        compare_methods(samples, opener, rows, conditions(tmp_path), quiet)


def test_bundles_of_other_classes_are_refused(tmp_path: Path) -> None:
    classes = (*two_scales().classes[:2], ClassInfo("violet", 9, (9, 9, 9)))
    bundles = [
        write_bundle(tmp_path / f"{name}.safetensors", two_scales(name=name, **changes))
        for name, changes in {"a": {}, "b": {"classes": classes}}.items()
    ]
    samples, opener = data(tmp_path, 1)
    with pytest.raises(BundleError, match="have different classes"):
        compare_methods(samples, opener, candidates([MethodRow()], bundles), conditions(tmp_path), quiet)


def test_images_without_a_label_are_refused(tmp_path: Path) -> None:
    samples, _ = data(tmp_path, 1)
    blank = MadeOpener({"image0": np.full((150, 190), -1)})
    rows = candidates([MethodRow()], [bundle_at(tmp_path)])
    with pytest.raises(ManifestError, match="no pixel is labelled"):
        compare_methods(samples, blank, rows, conditions(tmp_path), quiet)


def test_finished_results_are_judged_on_the_finest_grid_of_all(tmp_path: Path) -> None:
    samples, opener = data(tmp_path, 2)
    fine = bundle_at(tmp_path)
    coarse = write_bundle(tmp_path / "coarse.safetensors", two_scales(name="coarse", mpps=(2.0, 1.0)))
    for sample in samples:
        result_of(sample.image, fine, tmp_path / "fine")
    result_of(samples[0].image, coarse, tmp_path / "coarse", keep_probabilities=False)
    said: list[str] = []
    rows = find_results([tmp_path / "fine", tmp_path / "coarse"])
    found = compare_results(samples, opener, rows, said.append)
    assert [(i.sample.image.stem, i.mpp) for i in found.images] == [("image0", MPP)]
    assert said == ["1 of 2 images are left out: not every row has a result for them"]
    values = make_report(found).draws
    assert values["coarse"].value[MIOU] < values["fine"].value[MIOU]
    assert np.isnan(values["coarse"].value["calibration_error"])
    assert values["fine"].value["calibration_error"] >= 0


def test_a_result_of_another_slide_is_refused(tmp_path: Path) -> None:
    samples, opener = data(tmp_path, 2)
    rows = find_results([result_of(sample.image, bundle_at(tmp_path), tmp_path / "out") for sample in samples])
    with pytest.raises(ManifestError, match=r"out: .* is the result of image1.png, which is not one of the 1 images"):
        compare_results(samples[:1], opener, rows, quiet)
