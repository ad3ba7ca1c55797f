"""OpenSlide, codecs, bundle and slide: good ones, and each that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import pytest

from tests.runs import MadeRun
from wsi_magnet.config import Execution
from wsi_magnet.doctor import reading
from wsi_magnet.doctor.check import Needs, Request
from wsi_magnet.doctor.reading import check_codecs, check_openslide, check_reading, check_slide
from wsi_magnet.errors import SlideOpenError


def test_everything_that_is_good(made_run: MadeRun) -> None:
    found = list(check_reading(Request(Execution(), str(made_run.bundle), str(made_run.slide))))
    assert isinstance(found[-1], Needs)
    assert found[-1].disk_bytes
    results = [one for one in found if not isinstance(one, Needs)]
    assert [one.subject for one in results] == ["OpenSlide", "imagecodecs", "bundle", "slide"]
    assert {one.status for one in results} == {"ok"}


def test_bundle_and_slide_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "cut.svs").write_bytes(b"II*\0")
    found = list(check_reading(Request(Execution(), str(tmp_path / "none"), str(tmp_path / "cut.svs"))))
    wrong = {one.subject: one for one in found if not isinstance(one, Needs) and one.status == "problem"}
    assert wrong.keys() == {"bundle", "slide"}
    assert all(one.remedy for one in wrong.values())
    assert not any(isinstance(one, Needs) for one in found)


def test_a_slide_without_resolution(tmp_path: Path) -> None:
    import numpy as np
    import tifffile

    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, np.full((512, 512, 3), 200, np.uint8), tile=(256, 256), photometric="rgb", metadata=None)
    found = check_slide(path)
    assert (found.status, found.remedy) == ("warning", "pass --mpp, here and to the run")


def test_openslide_that_is_missing_old_or_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise SlideOpenError("no such library")

    monkeypatch.setattr(reading, "openslide_decoders", fail)
    assert "cannot decode its own test images: no such library" in check_openslide().text
    monkeypatch.setattr(reading, "openslide_versions", lambda: ("3.4.1", "1.4"))
    assert check_openslide().text == "3.4.1 is older than 4.0"
    monkeypatch.setattr(reading, "openslide_versions", fail)
    found = check_openslide()
    assert (found.status, found.text) == ("problem", "no such library")
    assert "pip install" in found.remedy


def test_a_codec_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagecodecs, "JPEG2K", type("Missing", (), {"available": False}))
    found = check_codecs()
    assert found.status == "problem"
    assert found.text.endswith("has no JPEG 2000")
