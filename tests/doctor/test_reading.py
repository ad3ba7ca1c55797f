"""Readers and codecs at work on the made slide, and on what they cannot read."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from tests.runs import MadeRun
from wsi_magnet.config import Execution
from wsi_magnet.doctor.asked import Asked
from wsi_magnet.doctor.facts import BundleFacts, Codecs, Cost, OpenSlideFacts, SlideFacts
from wsi_magnet.doctor.made import picture, write_slide
from wsi_magnet.doctor.reading import (
    cost_of,
    look_at_bundle,
    look_at_slide,
    read_all,
    try_codecs,
    try_openslide,
)
from wsi_magnet.nets.spec import read_spec
from wsi_magnet.slides.registry import open_slide


def test_the_made_slide_is_a_pyramid_with_a_resolution(tmp_path: Path) -> None:
    write_slide(tmp_path / "made.tif", 0.5)
    info = open_slide(tmp_path / "made.tif").info
    assert (info.reader, info.vendor) == ("openslide", "generic-tiff")
    assert [level.size.wh for level in info.levels] == [(1024, 1024), (512, 512)]
    assert info.mpp_xy == pytest.approx((0.5, 0.5), rel=1e-3)


def test_openslide_reads_it_and_tells_another_picture_from_it(tmp_path: Path) -> None:
    written = write_slide(tmp_path / "made.tif", 1.0)
    found = try_openslide(tmp_path / "made.tif", written)
    assert found.error is None
    assert found.version >= "4.0"
    turned = try_openslide(tmp_path / "made.tif", np.ascontiguousarray(written[..., ::-1]))
    assert "colours" in str(turned.error)


def test_openslide_says_why_it_does_not_read(tmp_path: Path) -> None:
    (tmp_path / "made.tif").write_bytes(b"no slide")
    assert try_openslide(tmp_path / "made.tif", picture()).error


def test_codecs_that_fail_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(try_codecs().errors.values()) == {None}
    monkeypatch.setattr(imagecodecs, "jpeg2k_decode", lambda data: np.zeros((256, 256, 3), np.uint8))
    errors = try_codecs().errors
    assert errors["JPEG"] is None
    assert "colours" in str(errors["JPEG 2000"])


def test_without_codecs_the_rest_is_looked_at(monkeypatch: pytest.MonkeyPatch, made_run: MadeRun) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    codecs, *rest = read_all(Asked(Execution(), str(made_run.bundle), str(made_run.slide)))
    assert isinstance(codecs, Codecs)
    assert "imagecodecs" in str(codecs.errors["JPEG"])
    assert [type(fact) for fact in rest] == [BundleFacts, SlideFacts]


def test_a_bundle_that_is_none_gives_way_to_the_one_that_ships(tmp_path: Path) -> None:
    found, spec = look_at_bundle(str(tmp_path / "none.safetensors"))
    assert "No such file" in str(found.error)
    assert spec == read_spec(None)[0]


def test_a_slide_is_decoded_at_all_levels(small_svs: Path, tmp_path: Path) -> None:
    found = look_at_slide(small_svs)
    assert (found.error, found.vendor) == (None, "aperio")
    assert found.mpp == pytest.approx(0.499)
    cut = tmp_path / "cut.svs"
    shutil.copy(small_svs, cut)
    content = bytearray(cut.read_bytes())
    content[len(content) // 3 : 2 * len(content) // 3] = bytes(len(content) // 3 + 1)[: len(content) // 3 + 1]
    cut.write_bytes(content[: len(small_svs.read_bytes())])
    assert look_at_slide(cut).error
    assert "no such file" in str(look_at_slide(tmp_path / "none.svs").error)


def test_memory_grows_with_threads_and_disk_with_the_slide(made_run: MadeRun) -> None:
    spec, _ = read_spec(made_run.bundle)
    cost = cost_of(made_run.slide, spec, exact=True)
    assert cost.base_bytes > 0
    assert cost.memory_bytes(2, 3) == 2 * (cost.base_bytes + 3 * cost.thread_bytes)
    assert cost.disk_bytes is not None
    assert cost.disk_bytes > 2220 * 2967 / 4
    assert cost_of(made_run.slide, spec, exact=False).disk_bytes is None


def test_all_of_it_in_order(made_run: MadeRun) -> None:
    asked = Asked(Execution(), str(made_run.bundle), str(made_run.slide))
    assert [type(fact) for fact in read_all(asked)] == [Codecs, BundleFacts, SlideFacts, OpenSlideFacts, Cost]
