"""The poster's figures: the numbers of the documentation, and what the poster says of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wsi_magnet.evaluate.poster import IMAGE_WH, POSTER, SOURCE

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"


def documented() -> dict[str, list[str]]:
    """Cells of the page's table, by method."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## The paper's data sets\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "|" in line]
    return {row[0]: row[1:] for row in rows}


def test_the_documentation_has_the_same_figures() -> None:
    table = documented()
    assert [name for name in table if name in POSTER] == list(POSTER)
    for method, figures in POSTER.items():
        shown = [
            f"{one.miou_percent:.2f} / {one.memory_mb} / {one.seconds:.2f}" if one else "-"
            for one in map(figures.get, IMAGE_WH)
        ]
        assert table[method] == shown


def test_the_head_of_the_table_names_the_data_sets_and_their_sizes() -> None:
    (head,) = (cells for name, cells in documented().items() if name.startswith("method"))
    for cell, (name, size) in zip(head, IMAGE_WH.items(), strict=True):
        assert cell.startswith(name)
        assert re.findall(r"\d+", cell) == [str(length) for length in size]


@pytest.mark.parametrize("data_set", IMAGE_WH)
def test_magnet_is_the_best_of_the_poster(data_set: str) -> None:
    found = {method: figures[data_set].miou for method, figures in POSTER.items() if data_set in figures}
    assert max(found, key=lambda method: found[method]) == "MagNet"
    assert found["MagNet"] > found["MagNet-Fast"] > found["Downsample"]
    assert all(0 < one < 1 for one in found.values())


def test_one_network_needs_one_memory() -> None:
    for data_set in IMAGE_WH:
        plain = {POSTER[name][data_set].memory_mb for name in ("Patching", "Downsample", "DenseCRF")}
        refined = {POSTER[name][data_set].memory_mb for name in ("MagNet-Fast", "MagNet")}
        assert (len(plain), len(refined)) == (1, 1)
        assert max(plain) < min(refined)


def test_figures_are_read_only_and_have_a_source() -> None:
    with pytest.raises(TypeError):
        POSTER["MagNet"]["Cityscapes"] = POSTER["MagNet"]["DeepGlobe"]  # type: ignore[index]
    assert "CVPR 2021" in SOURCE
