"""Opening of slides: the right reader, or one line with the reasons."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from tests.slides_made import stained, write_pyramid
from wsi_magnet.errors import ConfigError, MissingMppError, SlideOpenError
from wsi_magnet.geometry import Box, Size
from wsi_magnet.scales import build_ladder
from wsi_magnet.slides.read import read_scale
from wsi_magnet.slides.registry import open_slide
from wsi_magnet.slides.types import SlideReader

IMAGE = stained(Size(200, 150))


@pytest.fixture
def tiff(tmp_path: Path) -> Path:
    return write_pyramid(tmp_path / "Ärzte 1 – Kopie.tif", IMAGE, mpp=None)


def refusal(path: Path | str) -> str:
    with pytest.raises(SlideOpenError) as caught:
        open_slide(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_openslide_comes_first(tiff: Path) -> None:
    reader = open_slide(tiff)
    assert isinstance(reader, SlideReader)
    assert reader.info.reader == "openslide"
    assert reader.info.path == str(tiff)


def test_what_openslide_declines_is_read_as_an_image(tmp_path: Path) -> None:
    Pillow.fromarray(IMAGE).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb", compression="deflate")
    for name in ("a.png", "a.tif"):
        reader = open_slide(tmp_path / name)
        assert reader.info.reader == "image"
        assert np.array_equal(reader.read_level(0, Box.of(Size(200, 150)))[0], IMAGE)


def test_images_are_read_without_openslide(
    tmp_path: Path, tiff: Path, small_svs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openslide", None)
    assert open_slide(tiff).info.reader == "image"
    (tmp_path / "a.mrxs").write_bytes(b"\xff\xd8\xff\xe0 no pixels here")
    assert "OpenSlide is not installed" in refusal(tmp_path / "a.mrxs")


def test_a_given_mpp_wins(tiff: Path) -> None:
    with pytest.raises(MissingMppError, match="pass --mpp"):
        open_slide(tiff).info.require_mpp()
    info = open_slide(tiff, mpp=0.5).info
    assert (info.mpp_xy, info.mpp_source) == ((0.5, 0.5), "--mpp")
    with pytest.raises(ConfigError, match="1000"):
        open_slide(tiff, mpp=1000)


def test_a_bogus_mpp_is_named(tmp_path: Path) -> None:
    reader = open_slide(write_pyramid(tmp_path / "a.tif", IMAGE, mpp=1000))
    with pytest.raises(MissingMppError, match=r"says 1000\); pass --mpp"):
        reader.info.require_mpp()


def test_refusals(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.svs") == f"{tmp_path / 'none.svs'}: no such file"
    assert "is a folder" in refusal(tmp_path)
    (tmp_path / "empty.svs").touch()
    assert "cannot be opened as a slide (openslide: " in refusal(tmp_path / "empty.svs")


def test_every_readers_reason_is_given(tmp_path: Path) -> None:
    (tmp_path / "a.svs").write_text("no slide")
    message = refusal(tmp_path / "a.svs")
    assert "openslide: " in message
    assert "; image: not a PNG, JPEG or TIFF" in message


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6])
def test_a_truncated_slide(tmp_path: Path, small_svs: Path, kept: float) -> None:
    """The directories of the file lie behind its pixels."""
    data = small_svs.read_bytes()
    (tmp_path / "cut.svs").write_bytes(data[: int(len(data) * kept)])
    refusal(tmp_path / "cut.svs")


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9, 0.99])
def test_a_slide_that_lost_its_pyramid_is_no_plain_image(tmp_path: Path, kept: float) -> None:
    """Level 0 comes first here, and may be whole; OpenSlide declines the file because of what comes after it."""
    data = write_pyramid(tmp_path / "a.tif", stained(Size(1001, 800)), factors=(2, 4)).read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[: int(len(data) * kept)])
    assert "cut short" in refusal(tmp_path / "cut.tif")


def test_real_files_that_are_no_slides(test_data: Path) -> None:
    assert "broken.svs cannot be opened" in refusal(test_data / "awkward" / "broken.svs")
    assert "is a folder" in refusal(test_data / "slides")


REAL = {
    "slides/CMU-1-Small-Region.svs": ("aperio", (0.499, 0.499)),
    "slides/BS9_HE2.tif": ("generic-tiff", (0.2528, 0.2528)),
    "slides/tiff_with_asap_xml/example.tif": ("generic-tiff", (0.98719728520746564, 0.98719728520746564)),
    "slides/camelyon_low.dcm": ("dicom", (28.969, 28.968)),
    "gleason_strip/stripA_test100-104_assumed-mpp0.5.tif": ("generic-tiff", (0.5, 0.5)),
    "rings_mosaics/P1_D5_3_12_tiles4-5-6_no-mpp.tif": ("generic-tiff", None),
    "rings_mosaics/P1_D5_9_13_tiles4-6_no-mpp.tif": ("generic-tiff", None),
    "gleason_tiles/img/test10.jpg": ("jpeg", None),
    "rings_glands/img/P1_D4_5_14_3.png": ("png", None),
}


@pytest.mark.parametrize("name", REAL)
def test_real_slides(test_data: Path, name: str) -> None:
    """Vendor and mpp are known; neighbouring scales show the same picture, up to its far corner."""
    reader = open_slide(test_data / name)
    info = reader.info
    assert (info.vendor, info.mpp_xy) == REAL[name]
    scales = build_ladder((32.0, 16.0, 8.0, 4.0, 2.0, 1.0, 0.5), info.mpp_xy or (0.5, 0.5), info.canvas).scales
    for coarse, fine in pairwise(scales):
        x, y = max(coarse.size.width - 65, 0), max(coarse.size.height - 65, 0)
        for corner in ((0, 0), (x // 2, y // 2), (x, y)):
            box = Box(0, 0, 64, 64).shift(*corner).intersect(coarse.grid)
            small = read_scale(reader, coarse, box).astype(int)
            large = read_scale(reader, fine, Box(2 * box.x0, 2 * box.y0, 2 * box.x1, 2 * box.y1))
            halved = np.asarray(Pillow.fromarray(large).reduce(2)).astype(int)
            assert np.abs(small - halved).mean() < 13, f"{box} at {coarse.mpp} mpp"
