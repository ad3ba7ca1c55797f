"""The pyramids: valid OME-Zarr, nothing written for background, errors with their cure."""

from __future__ import annotations

import errno
import itertools
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.runs import local
from wsi_magnet.config import Ngff
from wsi_magnet.errors import StoreError
from wsi_magnet.geometry import Box, Size
from wsi_magnet.labels import LabelClass
from wsi_magnet.results import ngff
from wsi_magnet.results.pyramid import Pyramid, PyramidSpec, halve_tile, majority, mean
from wsi_magnet.storage.errors import storage_errors

SIZES = (Size(2500, 1300), Size(1250, 650), Size(625, 325), Size(313, 163))
VERSIONS: list[Ngff] = ["0.4", "0.5"]


def made(tmp_path: Path, version: Ngff, channels: int | None = None) -> Pyramid:
    pyramid = Pyramid(PyramidSpec(tmp_path / "mask.ome.zarr", SIZES, channels, version, 1024))
    pyramid.create()
    return pyramid


def objects(pyramid: Pyramid, level: int) -> list[Path]:
    return [
        p
        for p in local(pyramid.spec.path / str(level)).rglob("*")
        if p.is_file() and p.name not in (".zarray", ".zattrs", "zarr.json")
    ]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("channels", [None, 3])
def test_a_tile_comes_back(tmp_path: Path, version: Ngff, channels: int | None) -> None:
    pyramid = made(tmp_path, version, channels)
    box = Box(1024, 0, 2048, 1024)
    shape = box.size.hw if channels is None else (channels, *box.size.hw)
    pixels = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    pyramid.write(0, box, pixels)
    assert (pyramid.read(0, box) == pixels).all()
    assert (pyramid.read(0, Box(1000, 1000, 1100, 1100))[..., 24:, :] == 0).all()


@pytest.mark.parametrize("version", VERSIONS)
def test_background_is_not_written(tmp_path: Path, version: Ngff) -> None:
    pyramid = made(tmp_path, version)
    tile = np.zeros((1024, 1024), np.uint8)
    pyramid.write(0, Box(0, 0, 1024, 1024), tile)
    assert objects(pyramid, 0) == []
    tile[:512, :512] = 3
    pyramid.write(0, Box(0, 0, 1024, 1024), tile)
    assert len(objects(pyramid, 0)) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_of_a_tile_is_flushed(tmp_path: Path, version: Ngff) -> None:
    for channels in (None, 2):
        pyramid = made(tmp_path / str(channels), version, channels)
        box = Box(1024, 1024, 2048, 1300)
        shape = box.size.hw if channels is None else (channels, *box.size.hw)
        pyramid.write(0, box, np.ones(shape, np.uint8))
        assert {p for p in pyramid._objects(0, box) if local(p).exists()} == set(objects(pyramid, 0))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_pyramid_is_built_tile_by_tile(tmp_path: Path, version: Ngff) -> None:
    pyramid = made(tmp_path, version)
    labels = np.random.default_rng(1).integers(0, 4, SIZES[0].hw, np.uint8)
    for y, x in itertools.product(range(0, 1300, 1024), range(0, 2500, 1024)):
        box = Box(x, y, x + 1024, y + 1024).intersect(Box.of(SIZES[0]))
        pyramid.write(0, box, labels[box.slices_yx])
    for level in (1, 2, 3):
        grid = Box.of(SIZES[level])
        for y, x in itertools.product(range(0, grid.y1, 1024), range(0, grid.x1, 1024)):
            halve_tile(pyramid, level, Box(x, y, x + 1024, y + 1024).intersect(grid), labels=True)
        below = pyramid.read(level - 1, Box.of(SIZES[level - 1]))
        padded = np.pad(below, [(0, below.shape[0] % 2), (0, below.shape[1] % 2)], mode="edge")
        assert (pyramid.read(level, grid) == majority(padded)).all()


def test_majority_by_its_slow_twin() -> None:
    for four in itertools.product(range(3), repeat=4):
        result = majority(np.array(four, np.uint8).reshape(2, 2))[0, 0]
        most = max(four.count(v) for v in four)
        assert result == next(v for v in four if four.count(v) == most)


def test_mean_is_rounded_not_cut() -> None:
    assert mean(np.array([[[255, 255], [255, 254]]], np.uint8))[0, 0, 0] == 255
    assert mean(np.array([[1, 0], [0, 0]], np.uint8))[0, 0] == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_metadata_by_an_independent_reader(tmp_path: Path, version: Ngff) -> None:
    pyramid = made(tmp_path, version)
    frames = [ngff.level_frame(str(i), 0.5 * 2**i, (0.25, 0.25), (100, 40)) for i in range(4)]
    classes = [LabelClass(0, "background", (0, 0, 0)), LabelClass(3, "Gleason 3", (255, 255, 0))]
    entries = {
        "multiscales": [ngff.multiscales("mask", frames, channels=False, method="2x2 majority", version=version)],
        "image-label": ngff.image_label(classes, version),
    }
    pyramid.describe(ngff.attributes(version, entries, {"a": 1}))
    if version == "0.4":
        from ome_zarr_models.v04.image import Image as Image04

        image: object = Image04.from_zarr(zarr.open_group(pyramid.spec.path, mode="r"))
    else:
        from ome_zarr_models.v05.image import Image as Image05

        image = Image05.from_zarr(zarr.open_group(pyramid.spec.path, mode="r"))
    assert image is not None
    first = frames[0]
    assert first.origin_um_xy == pytest.approx((25.125, 10.125)), (
        "bounds, and half a mask pixel less half a slide pixel"
    )


def test_create_keeps_what_is_there(tmp_path: Path) -> None:
    pyramid = made(tmp_path, "0.4")
    pyramid.write(0, Box(0, 0, 1024, 1024), np.full((1024, 1024), 7, np.uint8))
    again = made(tmp_path, "0.4")
    assert again.read(0, Box(5, 5, 6, 6))[0, 0] == 7


def test_sweep_takes_only_half_written_files(tmp_path: Path) -> None:
    pyramid = made(tmp_path, "0.4")
    pyramid.write(0, Box(0, 0, 1024, 1024), np.full((1024, 1024), 7, np.uint8))
    local(pyramid.spec.path / "0" / "0" / "0.abc.partial").write_bytes(b"torn")
    before = len(objects(pyramid, 0))
    pyramid.sweep()
    assert len(objects(pyramid, 0)) == before - 1


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "free some space"), (errno.EACCES, "choose another output folder"), (errno.EIO, "Input/output")],
)
def test_errors_name_folder_and_cure(number: int, words: str) -> None:
    with pytest.raises(StoreError, match=words) as caught, storage_errors(Path("/out/x")):
        raise OSError(number, os.strerror(number))
    assert "/out/x" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("version", "group"), [("0.4", ".zgroup"), ("0.5", "zarr.json")])
def test_ome_xml_is_replaced_and_leaves_nothing_beside_it(tmp_path: Path, version: Ngff, group: str) -> None:
    pyramid = made(tmp_path, version)
    for text in ("<first/>", "<second/>"):
        pyramid.describe_ome(text)
    files = {p.name: p.read_text() for p in local(pyramid.spec.path / "OME").iterdir()}
    assert files.keys() - {".zattrs"} == {"METADATA.ome.xml", group}
    assert files["METADATA.ome.xml"] == "<second/>"


@pytest.mark.parametrize("version", VERSIONS)
def test_an_image_is_listed_without_a_warning(tmp_path: Path, version: Ngff) -> None:
    pyramid = made(tmp_path, version)
    pyramid.describe_ome("<some/>")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(pyramid.spec.path, mode="r")
        assert [name for name, _ in group.groups()] == ["OME"]
        assert sorted(name for name, _ in group.arrays()) == ["0", "1", "2", "3"]
        assert sorted(name for name, _ in group.members()) == ["0", "1", "2", "3", "OME"]


@pytest.mark.parametrize("channels", [None, 3])
def test_a_box_that_cuts_chunks_leaves_their_other_pixels(tmp_path: Path, channels: int | None) -> None:
    pyramid = Pyramid(PyramidSpec(tmp_path / "a.ome.zarr", (Size(1300, 1100),), channels, "0.4", 1024))
    pyramid.create()
    lead = () if channels is None else (channels,)
    expected = np.random.default_rng(0).integers(1, 255, (*lead, 1100, 1300), dtype=np.uint8)
    pyramid.write(0, Box(0, 0, 1300, 1100), expected)
    part = Box(500, 100, 1300, 700)
    rows, cols = part.slices_yx
    expected[..., rows, cols] = 7
    pyramid.write(0, part, expected[..., rows, cols])
    assert (pyramid.read(0, Box(0, 0, 1300, 1100)) == expected).all()
    assert (np.asarray(zarr.open_array(tmp_path / "a.ome.zarr" / "0", mode="r")[...]) == expected).all()
    assert not list(tmp_path.rglob("*.partial"))


def test_a_write_that_fails_leaves_nothing_and_nobody_writing(tmp_path: Path) -> None:
    pyramid = Pyramid(PyramidSpec(tmp_path / "a.ome.zarr", (Size(2048, 2048),), None, "0.4", 2048))
    pyramid.create()
    (tmp_path / "a.ome.zarr" / "0" / "1" / "2").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"damaged .* --restart"):
        pyramid.write(0, Box(0, 0, 2048, 2048), np.ones((2048, 2048), np.uint8))
    written = sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".zarray")
    assert not [path for path in written if path.name.endswith(".partial")]
    assert len(written) == 15 + 3, "all other chunks, and what describes the array and the group"
