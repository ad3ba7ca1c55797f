"""The page of methods, from evaluations of made-up counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pipelines.methods_page import COURSES, HEAD, about, main, overview, own_methods, read
from tests.evaluate.made_counts import made_comparison
from wsi_magnet.errors import ConfigError
from wsi_magnet.evaluate.columns import HEADROOM, MIOU
from wsi_magnet.evaluate.report import Report, make_report
from wsi_magnet.evaluate.serialise import to_json
from wsi_magnet.evaluate.tables import estimate_text
from wsi_magnet.methods.registry import method_class

NAMES = ("Patching", "Downsample", "GF", "PointRend", "MagNet-Fast", "MagNet")


def evaluation(path: Path, names: tuple[str, ...] = NAMES, *, timed: bool = True) -> Report:
    report = make_report(made_comparison(names, timed=timed), resamples=50)
    path.write_text(json.dumps(to_json(report)))
    return report


def table_of(page: str, head: str) -> dict[str, list[str]]:
    """Cells of the first table below a text, by the first."""
    lines = page.partition(head)[2].partition("\n| ---")[2].partition("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[1:]]
    return {row[0]: row[1:] for row in rows}


def test_a_page_of_two_data_sets(tmp_path: Path) -> None:
    report = evaluation(tmp_path / "one.json")
    evaluation(tmp_path / "other.json", ("Patching", "MagNet"), timed=False)
    output = tmp_path / "methods.md"
    main([f"GlaS={tmp_path / 'one.json'}", f"My set, of 128 px={tmp_path / 'other.json'}", "-o", str(output)])
    page = output.read_text(encoding="utf-8")
    assert page.startswith("# The poster's methods\n")
    for name in ("glas", "my-set-of-128-px"):
        assert f"(images/methods-{name}.png)" in page
        assert min(Image.open(tmp_path / "images" / f"methods-{name}.png").size) > 400
    rows = table_of(page, "\n## GlaS\n")
    assert list(rows) == list(NAMES)
    row = report.comparison.rows[2]
    difference = report.difference(row, MIOU)
    assert difference is not None
    assert rows["GF"] == [
        estimate_text(report.estimate(row, MIOU), percent=True),
        estimate_text(difference, percent=True),
        "1.200",
        "502",
        "- / - / -",
    ]
    assert rows["MagNet"][1] == "-"
    assert rows["PointRend"][-1] == "64.39 / 71.78 / 68.97"
    assert table_of(page, "\n## My set, of 128 px\n")["MagNet"][2:4] == ["-", "-"]


def test_refining_rows_are_shown_against_their_halves(tmp_path: Path) -> None:
    report = evaluation(tmp_path / "one.json")
    main([f"GlaS={tmp_path / 'one.json'}", "-o", str(tmp_path / "methods.md")])
    rows = table_of((tmp_path / "methods.md").read_text(encoding="utf-8"), "Against the two halves")
    assert list(rows) == [name for name in NAMES if name not in ("Patching", "Downsample")]
    magnet = report.comparison.rows[-1]
    assert rows["MagNet"][-1] == estimate_text(report.estimate(magnet, HEADROOM), percent=True)


def test_the_methods_that_are_not_local_are_said() -> None:
    rows = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[2:] for line in overview().splitlines()[2:]}
    assert [name for name, row in rows.items() if row[0] == "no"] == ["DenseCRF", "PointRend", "CascadePSP"]
    assert rows["ISS"] == ["yes", "100"]
    assert rows["GF"] == ["yes", "-"]
    assert list(rows) == [name for name in own_methods() if name not in COURSES]


@pytest.mark.parametrize("name", own_methods())
def test_a_method_is_described_by_its_own_words(name: str) -> None:
    text = about(name)
    assert text.startswith(f"### {name}\n\n")
    if name in COURSES:
        return
    assert text.count("*Faithful.*") + text.count("*Adapted.*") + text.count("*Reimplemented.*") == 1
    if name == "MagNet":
        return
    info = method_class(name).info
    words = " ".join(text.split())
    assert info.source in words
    assert info.differs in words
    assert all(f"`{one}` {value:.4g}" in words for one, value in info.parameters.items())
    assert ("weights of its own" in words) == info.needs.head


def test_the_page_names_the_command_that_writes_it() -> None:
    assert "python -m pipelines.methods_page" in HEAD


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("evaluation.json", "NAME=evaluation.json"),
        ("A=nothing.json", "cannot be read"),
        ("A={made}", "is no evaluation"),
    ],
)
def test_what_is_no_evaluation_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "made.json").write_text("[]")
    with pytest.raises(ConfigError, match=words):
        read(text.replace("{made}", str(tmp_path / "made.json")))


@pytest.mark.parametrize("key", ["name", "measures", "seconds_a_megapixel", "bundle", "peak_memory_bytes"])
def test_a_damaged_evaluation_is_refused(tmp_path: Path, key: str) -> None:
    evaluation(tmp_path / "made.json")
    values = json.loads((tmp_path / "made.json").read_text())
    del values["rows"][1][key]
    (tmp_path / "made.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=rf"made\.json is damaged \(KeyError: '{key}'\); evaluate again"):
        read(f"A={tmp_path / 'made.json'}")


def test_two_data_sets_do_not_share_a_picture(tmp_path: Path) -> None:
    evaluation(tmp_path / "made.json")
    names = [f"{name}={tmp_path / 'made.json'}" for name in ("My set", "my-set")]
    with pytest.raises(ConfigError, match=r"'My set', 'my-set' would share the picture images/methods-my-set\.png"):
        main([*names, "-o", str(tmp_path / "methods.md")])
    assert not (tmp_path / "methods.md").exists()
