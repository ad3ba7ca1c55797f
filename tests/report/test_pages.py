"""The page of a slide: what it says, to whom, and that it needs nothing but itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.export.results import Made, damage, make_result
from tests.report.conftest import EVIL, EVIL_SLIDE
from tests.report.reading import Reading
from wsi_magnet.report.facts import read_facts
from wsi_magnet.report.pages import entry_of, index_page, slide_page
from wsi_magnet.report.pictures import take_pictures
from wsi_magnet.storage.lock import locked_folder


def page_of(folder: Path) -> str:
    facts = read_facts(folder)
    return slide_page(facts, take_pictures(facts.source, 300))


def said(folder: Path) -> str:
    return Reading(page_of(folder)).text


@pytest.fixture(scope="module")
def graded_page(graded: Path) -> str:
    return page_of(graded)


def test_names_that_are_markup_are_shown_as_text(graded_page: str) -> None:
    text = Reading(graded_page).text
    for name in (EVIL, EVIL_SLIDE, "<b>free", "<i>none</i>"):
        assert " ".join(name.split()) in text


def test_only_the_programs_own_scripts_are_on_the_page(graded_page: str) -> None:
    read = Reading(graded_page)
    assert [s.get("type") for s in read.named("script")] == ["application/json", None]
    assert not [attributes for _, attributes in read.elements for name in attributes if name.startswith("on")]


def test_nothing_on_the_page_lies_elsewhere(graded_page: str) -> None:
    read = Reading(graded_page)
    addresses = [a[k] or "" for _, a in read.elements for k in ("src", "href", "srcset", "action", "data") if k in a]
    assert addresses
    assert not [address for address in addresses if not address.startswith("data:")]


@pytest.mark.parametrize(
    "text",
    [
        "Not for diagnosis.",
        "ISUP grade group",
        "noise floor",
        "grade group",
        "µm/px",
        "(from openslide.mpp-x)",
        "6335ea0e6cc54c2c",
        "Refinement",
        "A cell is a square of 512 pixels",
        "licence",
        "wsi-magnet",
    ],
)
def test_the_page_says(graded_page: str, text: str) -> None:
    assert text in Reading(graded_page).text


def test_every_picture_has_words_and_every_control_a_name(graded_page: str) -> None:
    read = Reading(graded_page)
    assert all(image.get("alt") for image in read.named("img"))
    assert all(button.get("aria-label") for button in read.named("button"))
    assert [page.get("lang") for page in read.named("html")] == ["en"]


def test_a_run_under_way_says_so(tmp_path: Path) -> None:
    make_result(tmp_path / "r", np.full((900, 700), 3, np.uint8), Made(state="running", first_level=1))
    with locked_folder(tmp_path / "r"):
        text = said(tmp_path / "r")
    assert "Alarm, preliminary" in text
    assert "has not finished: this is its mask at 2 µm/px" in text
    assert "Preliminary. Not for diagnosis." in text
    assert "state running" in text
    text = said(tmp_path / "r")
    assert "was stopped before its end; the same wsi-magnet command resumes it" in text
    assert "state stopped" in text


def test_alarms_stand_on_top_of_a_page_and_beside_the_state_in_an_index(graded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    shutil.copytree(graded, folder)
    alarm = {"kind": "upsampled", "text": "the slide's pixels are 12 µm"}
    values = json.loads((folder / "run.json").read_text())
    damage(folder, summary={**values["summary"], "alarms": [alarm]})
    facts = read_facts(folder)
    text = Reading(slide_page(facts, take_pictures(facts.source, 200))).text
    assert text.index("Alarm, upsampled: the slide's pixels are 12 µm.") < text.index("Analysed")
    assert "Preliminary" not in text
    index = Reading(
        index_page([entry_of(facts, "r.html", b"picture"), entry_of(read_facts(graded), "g.html", b"picture")])
    )
    assert "Alarms: 1 of 2 slides." in index.text
    assert "finished upsampled" in " ".join(index.text.split())


def test_a_page_without_its_slide_says_so(tmp_path: Path) -> None:
    make_result(tmp_path / "r", np.full((64, 64), 3, np.uint8))
    assert "Shown without its slide" in said(tmp_path / "r")


def test_an_empty_mask_says_so(tmp_path: Path) -> None:
    make_result(tmp_path / "r", np.zeros((64, 64), np.uint8))
    assert "the mask is empty" in said(tmp_path / "r")


def test_what_was_not_analysed_is_told_with_its_reasons(tmp_path: Path) -> None:
    mask = np.full((64, 64), 3, np.uint8)
    mask[:32] = 255
    make_result(tmp_path / "r", mask)
    damage(tmp_path / "r", state="finished with errors", failures=[f"row {i}: torn <tile>" for i in range(50)])
    text = said(tmp_path / "r")
    assert "50 tissue cells could not be read" in text
    assert "row 0: torn <tile>" in text
    assert "and 10 more, in run.json" in text


def test_notes_of_the_run_are_told(tmp_path: Path) -> None:
    make_result(tmp_path / "r", np.full((64, 64), 3, np.uint8))
    damage(tmp_path / "r", notes=["0.25 µm/px was left out"])
    assert "0.25 µm/px was left out" in said(tmp_path / "r")


def test_a_noise_floor_that_decides_the_grade_is_told(tmp_path: Path) -> None:
    mask = np.full((400, 400), 3, np.uint8)
    mask[:5, :5] = 4
    make_result(tmp_path / "r", mask)
    text = said(tmp_path / "r")
    assert "3 + 3 = 6, grade group 1" in text
    assert "Without this noise floor it would be 3 + 4 = 7, grade group 2" in text
