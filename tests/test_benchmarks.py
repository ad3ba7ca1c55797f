"""The frame of the benchmarks: what is measured comes back from its record, and the page says nothing else."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks import record
from benchmarks.record import Aim, Measurement, Record, Table, benchmark

MADE = Measurement(
    Table(["slide", "seconds"], [["small", "1.5"], ["large", "12.0"]]),
    [Aim("large by small", 8.0, 10.0), Aim("pixels a second", 3.0, 5.0, "at least")],
    ["What was measured."],
)


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where records and page go instead of docs/."""
    monkeypatch.setattr(record, "RECORDS", tmp_path / "performance")
    monkeypatch.setattr(record, "PAGE", tmp_path / "performance.md")
    return tmp_path


def typed(monkeypatch: pytest.MonkeyPatch, *arguments: str, name: str = "made") -> None:
    """A benchmark that measures nothing, run with these arguments."""

    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("slide", nargs="?")
        parser.add_argument("--times", type=int)

    monkeypatch.setattr("sys.argv", ["benchmark", *arguments])
    benchmark(name, f"The {name} one", lambda options: MADE, add_options)


@pytest.mark.parametrize(
    ("kind", "value", "met"),
    [
        ("at most", 1.1, True),
        ("at most", 1.2, False),
        ("at least", 1.1, True),
        ("at least", 1.0, False),
    ],
)
def test_an_aim_is_met_on_its_own_side_of_the_bound(kind: str, value: float, met: bool) -> None:
    aim = Aim("ratio", value, 1.1, "at most" if kind == "at most" else "at least")
    assert aim.met is met
    assert str(aim) == f"ratio: {value:g}, {kind} 1.1 wanted: {'met' if met else 'MISSED'}"


def test_a_table_is_markdown() -> None:
    assert MADE.table.lines() == [
        "| slide | seconds |",
        "|-------|--------:|",
        "| small |     1.5 |",
        "| large |    12.0 |",
    ]


def test_nothing_is_written_unless_asked_for(
    docs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch)
    assert "| large |    12.0 |" in capsys.readouterr().out
    assert not list(docs.iterdir())


def test_a_record_and_the_page_say_what_was_printed(
    docs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "--record", "--times", "3")
    printed = capsys.readouterr().out.strip()
    kept = Record(**json.loads((docs / "performance" / "made.json").read_text(encoding="utf-8")))
    assert "\n".join(kept.lines()).strip() == printed
    assert (docs / "performance.md").read_text(encoding="utf-8").endswith(f"\n{printed}\n")
    for told in (
        "`python -m benchmarks.made --times 3`",
        "8, at most 10 wanted: met",
        "at least 5 wanted: MISSED",
    ):
        assert told in printed


def test_the_page_keeps_its_order_and_what_was_recorded_before(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("other", "memory", "pipeline", "another"):
        typed(monkeypatch, "--record", name=name)
    titles = [line for line in (docs / "performance.md").read_text(encoding="utf-8").splitlines() if line[:3] == "## "]
    assert titles == [f"## The {name} one" for name in ("memory", "pipeline", "another", "other")]


def test_a_record_elsewhere_leaves_the_page_alone(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "--record", "--record-to", str(docs / "elsewhere"))
    assert [path.name for path in docs.iterdir()] == ["elsewhere"]


def test_arguments_are_told_without_folders(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = docs / "elsewhere"
    typed(monkeypatch, "/data/of/mine/slide.tif=Mine", "--record-to", str(elsewhere), "--times", "3", "--record")
    kept = json.loads((elsewhere / "made.json").read_text(encoding="utf-8"))
    assert kept["command"] == "python -m benchmarks.made slide.tif=Mine --times 3"


def test_the_page_in_the_repository_is_what_its_records_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not list(record.RECORDS.glob("*.json")):
        pytest.skip("nothing is recorded yet")
    there = record.PAGE.read_text(encoding="utf-8")
    monkeypatch.setattr(record, "PAGE", tmp_path / "performance.md")
    record.write_page()
    assert record.PAGE.read_text(encoding="utf-8") == there
