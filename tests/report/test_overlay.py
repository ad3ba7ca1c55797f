"""The picture of a result: its alarms are in it, and an unfinished run is stamped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from tests.export.results import damage, make_result
from wsi_magnet.errors import SlideOpenError
from wsi_magnet.labels import LabelClass
from wsi_magnet.report.colours import vivid
from wsi_magnet.report.overlay import OverlayStyle, _wrapped, blend, draw_overlay, stamp_preliminary

STYLE = OverlayStyle(longest_px=300)


def test_each_alarm_takes_lines_below_the_picture(graded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    shutil.copytree(graded, folder)
    values = json.loads((folder / "run.json").read_text())
    damage(folder, summary={**values["summary"], "alarms": []})
    plain = draw_overlay(folder, STYLE)
    alarm = {"kind": "upsampled", "text": "12 µm " * 40}
    damage(folder, summary={**values["summary"], "alarms": [alarm]})
    alarmed = draw_overlay(folder, STYLE)
    assert alarmed.width == plain.width
    assert alarmed.height >= plain.height + 3 * 34, "the text is wrapped"
    red = (np.asarray(alarmed) == (176, 0, 32)).all(-1)
    assert red.any()
    assert not (np.asarray(plain) == (176, 0, 32)).all(-1).any()


def test_an_unfinished_run_is_stamped(graded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    shutil.copytree(graded, folder)
    finished = np.asarray(draw_overlay(folder, STYLE))
    damage(folder, state="running", summary=None)
    running = np.asarray(draw_overlay(folder, STYLE))
    stamp = (running[:40, :150] == (176, 0, 32)).all(-1)
    assert stamp.sum() > 100
    assert not (finished[:40, :150] == (176, 0, 32)).all(-1).any()


def test_a_stamp_fits_a_tiny_picture() -> None:
    picture = Image.new("RGB", (20, 10))
    stamp_preliminary(picture)
    assert picture.size == (20, 10)


def test_long_words_stay_whole() -> None:
    font = ImageFont.load_default(20)
    assert _wrapped("a bb " + "c" * 50 + " d", font, 100) == ["a bb", "c" * 50, "d"]


def test_a_pale_class_is_drawn_in_a_colour_that_can_be_seen() -> None:
    colours = [(150, 200, 150), (128, 128, 128), (74, 144, 217)]
    stroma, grey, blue = vivid(LabelClass(value, str(value), colour) for value, colour in enumerate(colours, 1))
    assert stroma.color == (50, 200, 50)
    assert (grey.color, blue.color) == ((128, 128, 128), (74, 144, 217))
    pink = np.full((8, 8, 3), (200, 140, 150), np.uint8)
    drawn = blend(pink, np.ones((8, 8), np.uint8), [stroma], 0.35)[4, 4].astype(int)
    assert drawn[1] > drawn[0], "it is green, and not a paler pink"


def test_a_slide_that_is_gone_is_named_with_a_cure(tmp_path: Path) -> None:
    make_result(tmp_path / "r", np.full((64, 64), 3, np.uint8))
    with pytest.raises(SlideOpenError, match=r"no such file; put the slide back there \(`wsi-magnet report`"):
        draw_overlay(tmp_path / "r")
