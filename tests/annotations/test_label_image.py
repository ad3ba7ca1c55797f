"""Label images of every kind: their stored values, where they lie, and labels that are never mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from tests.annotations.made import (
    ALL,
    BACKGROUND,
    CLASSES,
    GLAND,
    GLEASON_3,
    MPP,
    STROMA,
    opened,
    read,
    scale_of,
    slide,
)
from wsi_magnet.annotations import label_image as label_image_module
from wsi_magnet.annotations.label_zarr import ZarrLabels
from wsi_magnet.annotations.labels import COLOUR, SetTable, label_of
from wsi_magnet.config import Ngff
from wsi_magnet.errors import AnnotationError
from wsi_magnet.geometry import Box, Size
from wsi_magnet.results import ngff
from wsi_magnet.results.pyramid import Pyramid, PyramidSpec

INFO = slide(37, 29)
VALUES = np.random.default_rng(0).integers(0, 4, (29, 37)).astype(np.uint8)
SETS = (1 << VALUES).astype(np.uint32)
"""The classes of made.py are numbered 0, 1, 2, 3."""

BITS = (VALUES > 1).astype(np.uint8)

RED, GREEN, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 0)


def png(folder: Path, pixels: npt.NDArray[Any], mode: str | None = None, **options: Any) -> Path:
    path = folder / "mask.png"
    picture = Pillow.fromarray(pixels)
    (picture if mode is None else picture.convert(mode)).save(path, **options)
    return path


def grey(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.repeat(values[..., None], 3, axis=-1)


def in_red(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.stack([values, 0 * values, 0 * values], axis=-1)


def palette_png(folder: Path, values: npt.NDArray[np.uint8], bits: int) -> Path:
    picture = Pillow.fromarray(values).convert("P")
    picture.putdata(values.ravel().tolist())
    picture.putpalette([*BLACK, *RED, *GREEN, 9, 9, 9])
    picture.save(folder / "mask.png", bits=bits)
    return folder / "mask.png"


# ---- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [VALUES, VALUES.astype(np.uint16), grey(VALUES), in_red(VALUES)], ids=range(4))
def test_a_png_of_values(tmp_path: Path, pixels: npt.NDArray[Any]) -> None:
    assert np.array_equal(read(png(tmp_path, pixels), INFO), SETS)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_palette_is_its_indices_and_not_its_colours(tmp_path: Path, bits: int) -> None:
    assert np.array_equal(read(palette_png(tmp_path, VALUES, bits), INFO), SETS)


def test_a_palette_is_its_colours_where_the_coding_lists_colours(tmp_path: Path) -> None:
    coding = "#000000=stroma; #ff0000=3; #00ff00=2; #090909=ignore"
    expected = np.array([STROMA, GLEASON_3, GLAND, ALL])[VALUES]
    assert np.array_equal(read(palette_png(tmp_path, VALUES, 8), INFO, coding), expected)


def test_one_bit_is_0_and_1(tmp_path: Path) -> None:
    path = png(tmp_path, BITS.astype(bool))
    assert np.array_equal(read(path, INFO), np.where(BITS == 1, STROMA, BACKGROUND))


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_of_few_bits_is_not_stretched(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(_grey_png(VALUES, bits))
    assert np.array_equal(read(path, INFO), SETS)


def _grey_png(values: npt.NDArray[np.uint8], bits: int) -> bytes:
    """Pillow writes no grey PNG of few bits: the chunks by hand."""
    import struct
    import zlib

    height, width = values.shape
    all_bits = np.unpackbits(values[..., None], axis=-1)[..., 8 - bits :].reshape(height, width * bits)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in all_bits)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_255_is_not_labelled(tmp_path: Path) -> None:
    assert (read(png(tmp_path, np.full((29, 37), 255, np.uint8)), INFO) == ALL).all()


# ---- colours -----------------------------------------------------------------------------------------------------


def painted(*colours: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    return np.array(colours, np.uint8)[VALUES % len(colours)]


def test_colours_by_the_coding(tmp_path: Path) -> None:
    path = png(tmp_path, painted(BLACK, RED, GREEN))
    sets = read(path, INFO, "#ff0000=Gleason 3; #00FF00=benign gland; #000000=0|1")
    assert np.array_equal(sets, np.array([BACKGROUND | STROMA, GLEASON_3, GLAND])[VALUES % 3])


def test_what_is_transparent_is_not_labelled(tmp_path: Path) -> None:
    path = png(tmp_path, painted((*RED, 255), (*GREEN, 90), (*RED, 0)))
    sets = read(path, INFO, "#ff0000=3; #00ff00=2")
    assert np.array_equal(sets, np.array([GLEASON_3, GLAND, ALL])[VALUES % 3])


def test_pure_red_is_never_taken_for_255(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"mask\.png: unknown label '#ff0000'"):
        read(png(tmp_path, painted(BLACK, RED)), INFO)


def test_a_colour_mask_needs_all_its_colours_listed(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="unknown label '#000000'"):
        read(png(tmp_path, painted(BLACK, RED)), INFO, "#ff0000=3")


@pytest.mark.parametrize(
    ("rgb", "colours", "label"),
    [
        (0x030303, False, 3),
        (0x030000, False, 3),
        (0x1F0000, False, 31),
        (0x200000, False, "#200000"),
        (0x000300, False, "#000300"),
        (0x030303, True, "#030303"),
    ],
)
def test_which_label_a_colour_is(rgb: int, colours: bool, label: int | str) -> None:
    assert label_of(COLOUR + rgb, colours=colours) == label


@given(st.lists(st.lists(st.integers(0, 3), min_size=1), min_size=1))
def test_a_table_learns_in_any_order(reads: list[list[int]]) -> None:
    from wsi_magnet.annotations.coding import Coding

    table = SetTable(Coding.parse("", CLASSES))
    for codes in reads:
        assert table.sets(np.array(codes, np.int64)).tolist() == [1 << code for code in codes]


# ---- TIFF --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (VALUES, {}),
        (VALUES, {"compression": "deflate", "tile": (16, 16)}),
        (VALUES, {"compression": "lzw", "rowsperstrip": 8}),
        (VALUES.astype(np.uint16), {"compression": "zstd", "tile": (16, 16)}),
        (255 - VALUES, {"photometric": "miniswhite"}),
        (grey(VALUES), {"photometric": "rgb", "tile": (16, 16), "compression": "deflate"}),
        (in_red(VALUES), {"photometric": "rgb", "planarconfig": None, "compression": "lzw"}),
    ],
    ids=range(7),
)
def test_a_tiff_of_values(tmp_path: Path, pixels: npt.NDArray[Any], options: dict[str, Any]) -> None:
    tifffile.imwrite(tmp_path / "mask.tif", pixels, **options)
    assert np.array_equal(read(tmp_path / "mask.tif", INFO), SETS)


def test_a_tiff_in_colours_with_a_transparent_one(tmp_path: Path) -> None:
    pixels = painted((*RED, 255), (*GREEN, 255), (*RED, 0))
    tifffile.imwrite(tmp_path / "mask.tif", pixels, photometric="rgb", extrasamples=["unassalpha"])
    sets = read(tmp_path / "mask.tif", INFO, "#ff0000=3; #00ff00=2")
    assert np.array_equal(sets, np.array([GLEASON_3, GLAND, ALL])[VALUES % 3])


def test_only_the_first_page_of_a_pyramid_is_read(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "mask.tif") as tiff:
        tiff.write(VALUES, tile=(16, 16), compression="deflate")
        tiff.write(np.full((14, 18), 77, np.uint8), subfiletype=1, tile=(16, 16), compression="deflate")
    assert np.array_equal(read(tmp_path / "mask.tif", INFO, downsample=1.0), SETS)


def test_a_coarser_tiff_lies_by_its_mpp(tmp_path: Path) -> None:
    coarse = VALUES[:15, :19]
    tifffile.imwrite(
        tmp_path / "mask.tif", coarse, resolution=(1e4 / (2 * MPP), 1e4 / (2 * MPP)), resolutionunit="CENTIMETER"
    )
    expected = (1 << coarse).repeat(2, axis=0).repeat(2, axis=1)[:29, :37]
    assert np.array_equal(read(tmp_path / "mask.tif", INFO), expected)


# ---- Zarr --------------------------------------------------------------------------------------------------------


def write_result(path: Path, *, version: Ngff, mpp: float, values: npt.NDArray[np.uint8], bounds: Box) -> Path:
    """A mask as this program writes it."""
    size = Size(values.shape[1], values.shape[0])
    pyramid = Pyramid(PyramidSpec(path, (size,), None, version, tile_px=512))
    pyramid.create()
    pyramid.write(0, Box.of(size), values)
    frame = ngff.level_frame("0", mpp, (MPP, MPP), (bounds.x0, bounds.y0))
    entry = ngff.multiscales("mask", [frame], channels=False, method="mode", version=version)
    pyramid.describe(ngff.attributes(version, {"multiscales": [entry]}, {}))
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_our_own_result_at_another_resolution_lies_on_the_canvas(tmp_path: Path, version: Ngff) -> None:
    bounds = Box(10, 20, 10 + 58, 20 + 38)
    info = slide(100, 90, bounds=bounds)
    path = write_result(
        tmp_path / "mask.ome.zarr", version=version, mpp=2 * MPP, values=VALUES[:19, :29], bounds=bounds
    )
    assert np.array_equal(read(path, info, downsample=2.0), SETS[:19, :29])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_plain_array_of_the_slides_size(tmp_path: Path, zarr_format: Any) -> None:
    array = zarr.create_array(
        tmp_path / "mask.zarr", shape=(1, 29, 37), chunks=(1, 8, 8), dtype="int32", zarr_format=zarr_format
    )
    array[0] = VALUES
    assert np.array_equal(read(tmp_path / "mask.zarr", INFO), SETS)


@pytest.mark.parametrize(
    ("unit", "scale", "mpp_xy"),
    [
        ("micrometer", [0.5, 0.25], (0.25, 0.5)),
        ("nanometer", [500, 250], (0.25, 0.5)),
        (None, [2, 2], None),
        ("pixel", [2, 2], None),
    ],
)
def test_the_mpp_that_ome_zarr_states(tmp_path: Path, unit: str | None, scale: list[float], mpp_xy: object) -> None:
    group = zarr.open_group(tmp_path / "mask.zarr", mode="w", zarr_format=2)
    group.create_array("fine", shape=(4, 4), dtype="uint8")
    axes: Any = [{"name": name, "type": "space", **({} if unit is None else {"unit": unit})} for name in "yx"]
    datasets: Any = [{"path": "fine", "coordinateTransformations": [{"type": "scale", "scale": scale}]}]
    group.attrs["multiscales"] = [{"axes": axes, "datasets": datasets}]
    assert ZarrLabels(tmp_path / "mask.zarr").mpp_xy == mpp_xy


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [((29, 37), "float32", "float32 pixels"), ((3, 29, 37), "uint8", r"the shape \(3, 29, 37\)"), ((5,), "uint8", "")],
)
def test_arrays_that_hold_no_labels_are_refused(
    tmp_path: Path, shape: tuple[int, ...], dtype: str, message: str
) -> None:
    zarr.create_array(tmp_path / "mask.zarr", shape=shape, dtype=dtype)
    with pytest.raises(AnnotationError, match=rf"mask\.zarr .*{message}"):
        opened(tmp_path / "mask.zarr", INFO)


def test_a_group_without_an_image_is_refused(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "mask.zarr", mode="w")
    with pytest.raises(AnnotationError, match="neither a Zarr array nor an OME-Zarr image"):
        opened(tmp_path / "mask.zarr", INFO)


# ---- where it lies -----------------------------------------------------------------------------------------------


def test_a_mask_of_level_0_and_one_of_the_canvas_lie_each_in_its_place(tmp_path: Path) -> None:
    info = slide(37, 29, bounds=Box(5, 7, 30, 20))
    of_level_0 = read(png(tmp_path, VALUES), info)
    of_canvas = read(png(tmp_path, VALUES[7:20, 5:30]), info)
    assert (of_level_0.tolist(), of_canvas.tolist()) == (SETS[7:20, 5:30].tolist(),) * 2


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"mask\.png is 36 x 29, the slide 37 x 29; it must have"):
        opened(png(tmp_path, VALUES[:, :36]), INFO)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    downsample=st.floats(0.6, 9.0),
    corner=st.tuples(*[st.integers(-4, 20)] * 2),
    block_px=st.sampled_from([1, 5, 16, 2048]),
)
def test_each_pixel_is_the_label_under_its_centre(
    tmp_path: Path, downsample: float, corner: tuple[int, int], block_px: int
) -> None:
    path = tmp_path / "mask.png"
    if not path.exists():
        png(tmp_path, VALUES)
    scale, box = scale_of(INFO, downsample), Box(*corner, corner[0] + 9, corner[1] + 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_image_module, "BLOCK_PX", block_px)
        sets = opened(path, INFO).read(scale, box)
    assert sets.tolist() == [[_under(x, y, scale.downsample_xy) for x in range(box.x0, box.x1)] for y in _rows(box)]


def _rows(box: Box) -> range:
    return range(box.y0, box.y1)


def _under(x: int, y: int, downsample_xy: tuple[float, float]) -> int:
    column, row = int(np.floor((x + 0.5) * downsample_xy[0])), int(np.floor((y + 0.5) * downsample_xy[1]))
    return int(SETS[row, column]) if 0 <= column < 37 and 0 <= row < 29 else ALL


# ---- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mask.png", "mask.tif"])
def test_every_pixel_is_checked_for_labels_that_nobody_knows(tmp_path: Path, name: str) -> None:
    values = VALUES.copy()
    values[28, 36] = 9
    Pillow.fromarray(values).save(tmp_path / name)
    with pytest.raises(AnnotationError, match=rf"{name}: unknown label 9; the classes are 0 background"):
        opened(tmp_path / name, INFO).check()


def test_known_labels_pass_the_check(tmp_path: Path) -> None:
    annotation = opened(png(tmp_path, VALUES), INFO)
    annotation.check()
    annotation.close()


def test_labels_in_jpeg_are_refused(tmp_path: Path) -> None:
    Pillow.fromarray(VALUES).save(tmp_path / "mask.jpg")
    tifffile.imwrite(tmp_path / "mask.tif", VALUES, compression="jpeg")
    for name in ("mask.jpg", "mask.tif"):
        with pytest.raises(AnnotationError, match="JPEG, which changes labels"):
            opened(tmp_path / name, INFO)


@pytest.mark.parametrize("kind", [np.float32, np.uint64])
def test_a_tiff_of_numbers_that_cannot_be_labels_is_told_what_can(tmp_path: Path, kind: type) -> None:
    tifffile.imwrite(tmp_path / "mask.tif", VALUES.astype(kind))
    with pytest.raises(
        AnnotationError, match=r"mask\.tif cannot be read .* with whole numbers of at most 32 bits per pixel"
    ):
        opened(tmp_path / "mask.tif", INFO)


@pytest.mark.parametrize("kept", [5, 30, 60])
def test_a_png_that_is_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    path = png(tmp_path, VALUES)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(AnnotationError, match=r"mask\.png cannot be read as a label image"):
        opened(path, INFO).check()


def test_a_tiff_with_damaged_pixels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    tifffile.imwrite(path, VALUES, compression="deflate")
    with tifffile.TiffFile(path) as tiff:
        start, count = tiff.pages.first.dataoffsets[0], tiff.pages.first.databytecounts[0]
    data = bytearray(path.read_bytes())
    data[start : start + count] = b"x" * count
    path.write_bytes(bytes(data))
    with pytest.raises(AnnotationError, match=r"mask\.tif cannot be read as a label image"):
        opened(path, INFO).check()


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "mask.tif", VALUES.astype(np.float32))
    with pytest.raises(AnnotationError, match="float32 pixels"):
        opened(tmp_path / "mask.tif", INFO)


# ---- real masks --------------------------------------------------------------------------------------------------


def test_a_real_mask_of_values(test_data: Path) -> None:
    path = test_data / "gleason_tiles" / "mask" / "test10.png"
    sets = read(path, slide(1201, 1201), "0=Gleason 3; 1=stroma|benign gland; 3=benign gland; 4=stroma")
    expected = np.array([GLEASON_3, STROMA | GLAND, 0, GLAND, STROMA])[np.asarray(Pillow.open(path))]
    assert np.array_equal(sets, expected)


def test_a_real_mask_of_colours(test_data: Path) -> None:
    path = test_data / "rings_tumour" / "mask" / "P3_C10_3_5_1.png"
    sets = read(path, slide(512, 512), "#ff0000=Gleason 3; #00ff00=benign gland; #000000=ignore")
    assert np.array_equal(sets == GLAND, np.asarray(Pillow.open(path))[..., 1] == 255)


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.uint32])
def test_tiffs_of_larger_and_signed_numbers_are_read(tmp_path: Path, kind: Any) -> None:
    values = np.zeros((30, 40), kind)
    values[5:9, 7:20] = 2
    tifffile.imwrite(tmp_path / "mask.tif", values, tile=(16, 16), compression="deflate")
    assert ((read(tmp_path / "mask.tif", slide(40, 30)) == GLAND) == (values == 2)).all()
