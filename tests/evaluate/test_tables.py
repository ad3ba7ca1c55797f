"""Tables for people, of made-up counts."""

from __future__ import annotations

from tests.evaluate.made_counts import made_comparison
from wsi_magnet.evaluate.poster import POSTER
from wsi_magnet.evaluate.report import make_report
from wsi_magnet.evaluate.tables import Table, notes, tables


def shown(names: list[str]) -> tuple[list[Table], list[str]]:
    report = make_report(made_comparison(names), resamples=20)
    return tables(report), notes(report)


def test_the_posters_own_figures_stand_beside_many_rows() -> None:
    table, remarks = shown([*POSTER, "GF"])
    assert table[-1].head == ("the poster's own", "Cityscapes", "DeepGlobe", "Gleason")
    assert [row[0] for row in table[-1].rows] == list(POSTER)
    assert table[-1].rows[-1] == (*("MagNet", "67.57 / 2007 / 2.93", "72.96 / 1559 / 1.19", "70.60 / 2621 / 2.74"),)
    assert table[-1].rows[4] == ("GLNet", "-", "71.60 / 1865 / 0.37", "-")
    assert "not measured here" in remarks[-1]


def test_several_bundles_do_not_repeat_them() -> None:
    table, _ = shown([f"{name} [{bundle}]" for bundle in ("a", "b") for name in POSTER])
    assert [row[0] for row in table[-1].rows] == list(POSTER)


def test_four_rows_have_none_of_that() -> None:
    table, remarks = shown(["Patching", "Downsample", "MagNet-Fast", "MagNet"])
    assert not any("poster" in one.head[0] for one in table)
    assert not any("poster" in one for one in remarks)


def test_rows_against_their_halves_come_second() -> None:
    table, remarks = shown(["Patching", "Downsample", "MagNet"])
    assert table[1].head == ("method", "accuracy %", "mended %", "spoiled %", "headroom %")
    assert [row[0] for row in table[1].rows] == ["MagNet"]
    assert sum(one.startswith("of the labelled pixels") for one in remarks) == 1
