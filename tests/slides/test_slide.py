"""Slides for users: closed after `with`, any rectangle at any resolution in its place, thumbnails, a repr."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from tests.export.results import Made, make_result
from tests.slides_made import coded, shifts, stained, write_pyramid, write_scn
from wsi_magnet import open_slide
from wsi_magnet.errors import ConfigError, MissingMppError, SlideReadError
from wsi_magnet.geometry import Box, Size
from wsi_magnet.scales import Scale, scale_at
from wsi_magnet.slides import read
from wsi_magnet.slides.read import read_scale
from wsi_magnet.slides.registry import READERS
from wsi_magnet.slides.slide import Slide
from wsi_magnet.slides.types import SlideReader

SIZE = Size(1203, 901)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "plain.png"
    Pillow.fromarray(stained(Size(90, 70))).save(path)
    return path


def test_every_reader_is_closed_after_with(small_svs: Path, picture: Path) -> None:
    seen = set()
    for path in (small_svs, picture):
        with open_slide(path) as slide:
            assert isinstance(slide, SlideReader)
            assert slide.read((0, 0, 4, 3)).shape == (3, 4, 3)
            seen.add(slide.info.reader)
        with pytest.raises(SlideReadError, match="closed"):
            slide.read((0, 0, 4, 3))
    assert seen == set(READERS)


def test_an_open_slide_is_not_sent_to_another_process(picture: Path) -> None:
    with open_slide(picture) as slide, pytest.raises(TypeError, match="send its path"):
        pickle.dumps(slide)


def test_without_an_mpp_level_0_itself_is_read(picture: Path) -> None:
    with open_slide(picture) as slide:
        image = np.asarray(Pillow.open(picture))
        assert np.array_equal(slide.read((10, 20, 30, 40)), image[20:60, 10:40])
        assert np.array_equal(slide.read(Box(10, 20, 40, 60)), image[20:60, 10:40])
        with pytest.raises(MissingMppError, match="mpp="):
            slide.read((10, 20, 30, 40), 1.0)


@pytest.mark.parametrize(
    ("box", "mpp"),
    [((37, 55, 800, 600), 0.25), ((37.5, 55.25, 800, 600), 0.5), ((100, 60, 1000, 800), 1.7), ((0, 0, 1203, 901), 2.0)],
)
def test_every_pixel_is_in_its_place(tmp_path: Path, box: tuple[float, ...], mpp: float) -> None:
    for axis, corner in (("x", box[0]), ("y", box[1])):
        path = write_pyramid(tmp_path / f"{axis}.tif", coded(SIZE, axis), mpp=0.25, factors=(2, 4))
        with open_slide(path) as slide:
            image = slide.read(box, mpp)
        size = Size(image.shape[1], image.shape[0])
        assert size == Size(round(box[2] * 0.25 / mpp), round(box[3] * 0.25 / mpp))
        scale = Scale(0, mpp, (box[2] / size.width, box[3] / size.height), size)
        beside = shifts(image, Box.of(size), scale, axis, corner=corner)
        assert len(beside.ravel()) > 50
        assert np.abs(beside).max() < 0.5
        assert np.abs(beside).mean() < 0.1


def test_the_pixels_are_those_that_the_networks_see(small_svs: Path) -> None:
    with open_slide(small_svs) as slide:
        scale = scale_at(2.0, slide.info.require_mpp(), slide.info.canvas)
        cell = Box(100, 200, 164, 264)
        place = scale.level0(cell)
        seen = slide.read((place.x0, place.y0, place.x1 - place.x0, place.y1 - place.y0), 2.0)
        assert np.abs(seen.astype(int) - read_scale(slide, scale, cell)).max() <= 1


@given(
    x=st.floats(-300, 1400),
    y=st.floats(-300, 1400),
    width=st.floats(1, 2000),
    height=st.floats(1, 2000),
    mpp=st.floats(0.5, 20),
)
def test_a_region_of_a_result_has_the_same_pixels(
    tmp_path_factory: pytest.TempPathFactory, x: float, y: float, width: float, height: float, mpp: float
) -> None:
    folder = tmp_path_factory.getbasetemp() / "both"
    if not folder.exists():
        folder.mkdir()
        black = np.zeros((500, 700, 3), np.uint8)
        write_scn(folder / "a.scn", black, whole=Size(1200, 1000), corner_xy=(400, 300), mpp=0.5)
        make_result(folder / "result", np.ones((250, 350), np.uint8), Made(1.0, 0.5, (400, 300)))
    from wsi_magnet import open_result

    box = (x, y, width, height)
    with open_slide(folder / "a.scn") as slide:
        pixels = slide.read(box, mpp)
    region = open_result(folder / "result").region(box, mpp=mpp)
    assert pixels.shape[:2] == region.labels.shape
    assert np.array_equal(open_result(folder / "result").region(*box, mpp=mpp).labels, region.labels)
    # Tissue is black, and all else white; a pixel on the border is a mixture.
    sure = (pixels[..., 0] < 20) | (pixels[..., 0] > 235)
    assert np.array_equal(pixels[..., 0][sure] < 128, region.labels[sure] == 1)


def test_a_rectangle_beside_the_slide_is_white(picture: Path) -> None:
    with open_slide(picture, mpp=0.5) as slide:
        far = slide.read((1e6, -1e6, 2000, 1000), 5.0)
        assert far.shape == (100, 200, 3)
        assert far.min() == 255
        over = slide.read((-10, -10, 110, 90))
        assert over[:10].min() == over[:, :10].min() == over[80:].min() == over[:, 100:].min() == 255
        assert np.array_equal(over[10:80, 10:100], slide.read((0, 0, 90, 70)))


def test_a_large_rectangle_is_read_in_blocks_without_seams(small_svs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = (0.5, 0.25, 2000, 1500)
    with open_slide(small_svs) as slide:
        whole = slide.read(box, 1.3)
        monkeypatch.setattr(read, "RECTANGLE_BLOCK_PX", 100)
        assert np.abs(slide.read(box, 1.3).astype(int) - whole).max() <= 1


@pytest.mark.parametrize(
    ("box", "mpp", "text"),
    [
        ((0, 0, 0, 5), None, "needs width and height above 0"),
        ((0, 0, float("inf"), 5), None, "needs width and height above 0"),
        ((0, 0, 5), None, r"box is \(0, 0, 5\), not \(x, y, width, height\)"),
        (3, None, "box is 3, not"),
        ((0, 0, 5, 5), 0, "mpp is 0, not a number above 0"),
        ((0, 0, 5, 5), "1", "mpp is '1', not a number above 0"),
        ((0, 0, 1e6, 1e6), None, "1000000 x 1000000 pixels are too many to be read at once"),
    ],
)
def test_an_impossible_rectangle_is_refused(picture: Path, box: Any, mpp: Any, text: str) -> None:
    with open_slide(picture, mpp=0.5) as slide, pytest.raises(ConfigError, match=text):
        slide.read(box, mpp)


def test_a_thumbnail_shows_what_was_scanned(tmp_path: Path) -> None:
    image = np.zeros((500, 700, 3), np.uint8)
    image[:250] = (200, 100, 50)
    with open_slide(write_scn(tmp_path / "a.scn", image, whole=Size(1200, 1000), corner_xy=(400, 300))) as slide:
        assert slide.thumbnail(70).size == (70, 50)
        shown = np.asarray(slide.thumbnail(70))
        assert shown[0, 0].tolist() == shown[0, -1].tolist() == [200, 100, 50]
        assert shown[-1].max() == 0
        assert slide.thumbnail(10_000).size == (700, 500)
        for wrong in (0, True, "x"):
            with pytest.raises(ConfigError, match=f"longest_px is {wrong!r}"):
                slide.thumbnail(wrong)  # type: ignore[arg-type]
        png = slide._repr_png_()
        assert png is not None
        assert png.startswith(b"\x89PNG")


def test_a_slide_too_large_to_be_decoded_is_not_shown(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_magnet.slides.slide.MOST_SHOWN_PIXELS", 100)
    with open_slide(picture) as slide:
        assert slide._repr_png_() is None


def test_a_slide_is_one_line(small_svs: Path, picture: Path) -> None:
    with open_slide(small_svs) as slide:
        assert repr(slide) == "<Slide CMU-1-Small-Region.svs: 2220 x 2967 pixels at 0.499 µm/px, 1 level, aperio>"
        assert len(repr(slide.info)) < 600
    with open_slide(picture) as slide:
        assert repr(slide) == "<Slide plain.png: 90 x 70 pixels without mpp, 1 level, png>"
        assert isinstance(slide, Slide)
