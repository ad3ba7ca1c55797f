"""The picture of a result: its alarms are in it, and an unfinished run is stamped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageFont

from tests.export.results import damage
from wsi_magnet.report.overlay import OverlayStyle, _wrapped, draw_overlay, stamp_preliminary

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
