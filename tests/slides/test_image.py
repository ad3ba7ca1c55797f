"""Plain images: every kind of pixel comes out as the same RGB, read lazily where the format allows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from tests.slides_made import stained
from wsi_magnet.errors import SlideOpenError, SlideReadError
from wsi_magnet.geometry import Box, Size
from wsi_magnet.slides import image as image_module
from wsi_magnet.slides import tiff as tiff_module
from wsi_magnet.slides.colour import Samples
from wsi_magnet.slides.image import open_image

SIZE = Size(150, 130)
IMAGE = stained(SIZE)
BOX = Box(13, 7, 140, 121)
GREY = IMAGE[..., 1]


def check(path: Path, expected: np.ndarray[Any, np.dtype[np.uint8]] = IMAGE, tolerance: int = 0) -> None:
    reader = open_image(path)
    assert reader.info.size == SIZE
    assert len(reader.info.levels) == 1
    got, corner = reader.read_level(0, BOX)
    assert corner == (13.0, 7.0)
    assert got.shape == (114, 127, 3)
    assert got.dtype == np.uint8
    rgb = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=-1)
    assert np.abs(got.astype(int) - rgb[BOX.slices_yx]).max() <= tolerance
    reader.close()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rowsperstrip": 16},
        {"rowsperstrip": 16, "compression": "deflate"},
        {"rowsperstrip": 16, "compression": "deflate", "predictor": True},
        {"compression": "lzw"},
        {"tile": (64, 48), "compression": "deflate"},
        {"tile": (64, 48)},
        {"byteorder": ">", "compression": "deflate"},
        {"bigtiff": True},
    ],
    ids=str,
)
def test_layouts_of_tiff(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, photometric="rgb", **options)
    check(path)


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_separate_planes(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "a.tif"
    planes = np.moveaxis(IMAGE, -1, 0)
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", compression=compression, rowsperstrip=16)
    check(path)


def test_jpeg_in_tiff(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, photometric="rgb", compression="jpeg", compressionargs={"level": 98}, rowsperstrip=16)
    check(path, tolerance=40)


def test_grey_and_sixteen_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, photometric="minisblack", compression="deflate")
    check(path, GREY)
    tifffile.imwrite(path, 255 - GREY, photometric="miniswhite", compression="deflate")
    check(path, GREY)
    tifffile.imwrite(path, GREY.astype(np.uint16) * 257, photometric="minisblack", compression="deflate")
    check(path, GREY)
    tifffile.imwrite(path, IMAGE.astype(np.uint16) * 257, photometric="rgb")
    check(path)
    tifffile.imwrite(path, GREY > 128, photometric="minisblack")
    check(path, np.where(GREY > 128, 255, 0).astype(np.uint8))


def test_palette(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    picture = Pillow.fromarray(IMAGE).quantize(64)
    picture.save(path)
    check(path, np.asarray(picture.convert("RGB")))


def test_cmyk(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    picture = Pillow.fromarray(IMAGE).convert("CMYK")
    picture.save(path)
    check(path, np.asarray(picture.convert("RGB")), tolerance=1)


def test_alpha_is_composed_on_white(tmp_path: Path) -> None:
    alpha = np.linspace(0, 255, SIZE.pixels).reshape(SIZE.hw).round().astype(np.uint8)[..., None]
    share = alpha / 255
    expected = (IMAGE * share + 255 * (1 - share)).round().astype(np.uint8)
    rgba = np.concatenate([IMAGE, alpha], axis=-1)
    multiplied = np.concatenate([(IMAGE * share).round().astype(np.uint8), alpha], axis=-1)
    for name, pixels, kind in (("a.tif", rgba, "unassalpha"), ("b.tif", multiplied, "assocalpha")):
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb", extrasamples=[kind])
        check(tmp_path / name, expected, tolerance=1)
    Pillow.fromarray(rgba).save(tmp_path / "c.png")
    check(tmp_path / "c.png", expected, tolerance=1)


def test_png_and_jpeg(tmp_path: Path) -> None:
    picture = Pillow.fromarray(IMAGE)
    picture.save(tmp_path / "a.png")
    check(tmp_path / "a.png")
    Pillow.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "b.png")
    check(tmp_path / "b.png", GREY)
    picture.save(tmp_path / "c.jpg", quality=98)
    check(tmp_path / "c.jpg", tolerance=40)


def test_pixels_are_in_stored_order(tmp_path: Path) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6  # "turn me"
    Pillow.fromarray(IMAGE).save(tmp_path / "a.png", exif=exif)
    check(tmp_path / "a.png")


def test_only_what_is_asked_for_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, photometric="rgb", compression="deflate", rowsperstrip=10)
    decoded: list[int] = []
    decode = tiff_module.TiffPixels._decode

    def noted(self: tiff_module.TiffPixels, index: int) -> Samples:
        decoded.append(index)
        return decode(self, index)

    monkeypatch.setattr(tiff_module.TiffPixels, "_decode", noted)
    reader = open_image(path)
    assert decoded == []
    reader.read_level(0, Box(0, 25, 10, 45))
    reader.read_level(0, Box(90, 25, 100, 45))
    assert decoded == [2, 3, 4]


def test_the_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_module, "CACHE_BYTES", 2 * 10 * SIZE.width * 3)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, photometric="rgb", compression="deflate", rowsperstrip=10)
    pixels = tiff_module.TiffPixels(path)
    assert np.array_equal(pixels.read(Box.of(SIZE)), IMAGE)
    assert len(pixels._cache._segments) == 2


def test_threads_decode_different_tiles_at_once_and_none_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, photometric="rgb", compression="deflate", tile=(64, 64))
    both, decoded = Barrier(2, timeout=60), []
    decode = tiff_module.TiffPixels._decode

    def together(self: tiff_module.TiffPixels, index: int) -> Samples:
        decoded.append(index)
        both.wait()
        return decode(self, index)

    monkeypatch.setattr(tiff_module.TiffPixels, "_decode", together)
    pixels = tiff_module.TiffPixels(path)
    boxes = [Box(0, 0, 64, 64), Box(64, 0, 128, 64)] * 4
    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(pixels.read, boxes))
    assert sorted(decoded) == [0, 1]
    assert all(np.array_equal(one, IMAGE[box.slices_yx]) for one, box in zip(got, boxes, strict=True))


def test_a_tile_that_cannot_be_decoded_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, photometric="rgb", compression="deflate", tile=(64, 64))
    decode, failures = tiff_module.TiffPixels._decode, [OSError("no answer")]

    def once(self: tiff_module.TiffPixels, index: int) -> Samples:
        if failures:
            raise failures.pop()
        return decode(self, index)

    monkeypatch.setattr(tiff_module.TiffPixels, "_decode", once)
    reader = open_image(path)
    with pytest.raises(SlideReadError, match="no answer"):
        reader.read_level(0, Box.of(SIZE))
    assert np.array_equal(reader.read_level(0, Box.of(SIZE))[0], IMAGE)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, 0),  # mapped into memory
        ({"compression": "deflate", "rowsperstrip": 10}, SIZE.pixels * 3),
        ({"compression": "deflate", "rowsperstrip": 100}, 100 * SIZE.width * 3),
        ({"compression": "deflate", "tile": (64, 64)}, 64 * 64 * 3 * 9),
    ],
    ids=str,
)
def test_a_tiff_keeps_its_cache_or_its_largest_strip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], kept: int
) -> None:
    if options.get("rowsperstrip") == 100:
        monkeypatch.setattr(tiff_module, "CACHE_BYTES", 1000)
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb", **options)
    assert open_image(tmp_path / "a.tif").info.cache_bytes == kept


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_picture_is_kept_whole(tmp_path: Path, name: str) -> None:
    Pillow.fromarray(IMAGE).save(tmp_path / name)
    assert open_image(tmp_path / name).info.cache_bytes == SIZE.pixels * 3


def test_mpp_from_the_tags(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, photometric="rgb", resolution=(20000, 40000), resolutionunit="CENTIMETER")
    info = open_image(path).info
    assert (info.mpp_xy, info.mpp_source) == ((0.5, 0.25), "tiff tags")
    tifffile.imwrite(path, IMAGE, photometric="rgb", resolution=(300, 300), resolutionunit="INCH")
    info = open_image(path).info
    assert (info.mpp_xy, info.mpp_source) == (None, "none (tiff tags says 84.67)")


def test_identity_follows_the_content(tmp_path: Path) -> None:
    for name, image in (("a.png", IMAGE), ("b.png", IMAGE), ("c.png", IMAGE[::-1])):
        Pillow.fromarray(image).save(tmp_path / name)
    a, b, c = (open_image(tmp_path / name).info.identity for name in ("a.png", "b.png", "c.png"))
    assert a == b != c


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
def test_a_truncated_file_is_one_line(tmp_path: Path, kind: str) -> None:
    """Cut anywhere, it fails to open or to read, and with nothing but our own errors."""
    path, cut = tmp_path / f"a.{kind}", tmp_path / f"cut.{kind}"
    if kind == "tif":
        tifffile.imwrite(path, IMAGE, photometric="rgb", compression="deflate", rowsperstrip=16)
    else:
        Pillow.fromarray(IMAGE).save(path)
    data = path.read_bytes()
    for length in (3, 8, 20, 60, len(data) // 10, len(data) // 2, len(data) * 9 // 10):
        cut.write_bytes(data[:length])
        with pytest.raises((SlideOpenError, SlideReadError)) as caught:
            open_image(cut).read_level(0, Box.of(SIZE))
        assert "\n" not in str(caught.value)


def test_what_cannot_be_shown_is_declined(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "float.tif", GREY.astype(np.float32), photometric="minisblack")
    with pytest.raises(SlideOpenError, match="float32"):
        open_image(tmp_path / "float.tif")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(SlideOpenError, match="not a PNG, JPEG or TIFF"):
        open_image(tmp_path / "text.png")


def test_what_would_fill_the_memory_is_declined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pillow.fromarray(IMAGE).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb", compression="deflate", rowsperstrip=SIZE.height)
    monkeypatch.setattr(image_module, "MOST_DECODED_PIXELS", SIZE.pixels - 1)
    monkeypatch.setattr(tiff_module, "MOST_SEGMENT_PIXELS", SIZE.pixels - 1)
    for name in ("a.png", "a.tif"):
        with pytest.raises(SlideOpenError, match=r"150 x 130 pixels.*(convert|save) it"):
            open_image(tmp_path / name)
