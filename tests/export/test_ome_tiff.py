"""OME-TIFFs hold the store's own pixels, level by level, and say what they are."""

from __future__ import annotations

import errno
import tracemalloc
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile

from tests.export.results import CLASSES, Made, damage, make_result, make_sparse_result
from wsi_magnet.config import Ngff
from wsi_magnet.errors import ConfigError, StoreError
from wsi_magnet.export.ome_tiff import write_ome_tiff
from wsi_magnet.geometry import Box
from wsi_magnet.labels import LabelClass
from wsi_magnet.results.ome_xml import NAMESPACE, Product
from wsi_magnet.results.pyramid import Pyramid
from wsi_magnet.results.reader import Result
from wsi_magnet.storage.output import FileOptions

FILES = FileOptions()


def random_result(folder: Path, made: Made | None = None) -> Result:
    """Two cells and a bit wide, one and a bit high; the middle column is empty."""
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 5, (600, 1100), np.uint8)
    probabilities = rng.integers(0, 64, (len(CLASSES), 600, 1100), np.uint8)
    uncertainty = rng.integers(0, 255, (600, 1100), np.uint8)
    for pixels in (mask, probabilities, uncertainty):
        pixels[..., 512:1024] = 0
    return make_result(folder, mask, made, probabilities=probabilities, uncertainty=uncertainty)


def stored(pyramid: Pyramid | None, level: int) -> np.ndarray[Any, Any]:
    assert pyramid is not None
    return pyramid.read(level, Box.of(pyramid.spec.sizes[level]))


def comment_of(path: Path) -> str:
    with tifffile.TiffFile(path) as tiff:
        return tiff.ome_metadata or ""


@pytest.mark.parametrize("product", get_args(Product))
@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_every_level_is_the_store_s_own(tmp_path: Path, product: Product, ngff: Ngff) -> None:
    source = random_result(tmp_path / "result", Made(ngff=ngff))
    (path,) = write_ome_tiff(source, tmp_path / "x.ome.tif", product, FILES).files
    pyramid = {
        "mask": source.mask_image,
        "probabilities": source.probabilities_image,
        "uncertainty": source.uncertainty_image,
    }[product]
    with tifffile.TiffFile(path) as tiff:
        (series,) = tiff.series
        assert len(series.levels) == len(source.levels)
        assert all((series.levels[i].asarray() == stored(pyramid, i)).all() for i in source.levels)


def test_it_is_a_tiled_big_tiff_with_its_levels_in_sub_ifds(tmp_path: Path) -> None:
    source = random_result(tmp_path / "result")
    write_ome_tiff(source, tmp_path / "x.ome.tiff", "probabilities", FILES)
    with tifffile.TiffFile(tmp_path / "x.ome.tiff") as tiff:
        pages = [page.aspage() for page in tiff.pages]
        facts = {(p.tilewidth, p.tilelength, p.compression, len(p.subifds or ())) for p in pages}
        assert (tiff.is_bigtiff, tiff.is_ome, len(pages), tiff.series[0].axes) == (True, True, len(CLASSES), "CYX")
    assert facts == {(512, 512, tifffile.COMPRESSION.ADOBE_DEFLATE, len(source.levels) - 1)}


def test_it_tells_microns_channels_and_where_it_comes_from(tmp_path: Path) -> None:
    source = random_result(tmp_path / "result", Made(mpp=0.5, slide_mpp=0.25))
    write_ome_tiff(source, tmp_path / "x.ome.tif", "probabilities", FILES)
    root = ElementTree.fromstring(comment_of(tmp_path / "x.ome.tif"))
    told = {m.get("K"): m.text for m in root.iter(f"{{{NAMESPACE}}}M")}
    assert [c.get("Name") for c in root.iter(f"{{{NAMESPACE}}}Channel")] == [c.name for c in CLASSES]
    assert [p.get("PhysicalSizeX") for p in root.iter(f"{{{NAMESPACE}}}Pixels")] == ["0.5"]
    assert (told["slide"], told["bundle"], told["version"]) == ("slide.svs", "made", "0.0")


def test_the_comment_is_utf_8_without_character_references(tmp_path: Path) -> None:
    """As Bio-Formats, and with it QuPath, Fiji and OMERO, recognises it."""
    classes = (LabelClass(1, "腺", (1, 2, 3)), LabelClass(2, "железа µ", (3, 2, 1)))
    source = make_result(tmp_path / "result", np.ones((64, 64), np.uint8), Made(classes=classes))
    damage(tmp_path / "result", slide={**source.record.to_json()["slide"], "path": "Präparat.svs"})
    write_ome_tiff(Result(tmp_path / "result"), tmp_path / "x.ome.tif", "mask", FILES)
    data = (tmp_path / "x.ome.tif").read_bytes()
    begin = data.index(b"<?xml")
    text = data[begin : data.index(b"\0", begin)].decode("utf-8")
    assert "&#" not in text
    assert all(part in text for part in ('PhysicalSizeXUnit="µm"', "Präparat.svs", "腺", "железа µ"))


def test_a_run_that_goes_on_gives_its_finest_complete_scale(tmp_path: Path) -> None:
    source = random_result(tmp_path / "result", Made(state="running", first_level=1))
    exported = write_ome_tiff(source, tmp_path / "x.ome.tif", "mask", FILES)
    assert (tifffile.imread(tmp_path / "x.ome.tif") == stored(source.mask_image, 1)).all()
    assert "2 µm/px" in exported.notes[0]


def test_missing_tiles_cost_next_to_nothing(tmp_path: Path) -> None:
    """100 megapixels with one patch: less than 1 % of that on disk, and less than 8 % in memory."""
    make_sparse_result(tmp_path / "result", 10_000, [(5_000, 5_000, np.full((100, 100), 3, np.uint8))])
    source = Result(tmp_path / "result")
    tracemalloc.start()
    (path,) = write_ome_tiff(source, tmp_path / "x.ome.tif", "mask", FILES).files
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size < 1e6
    assert peak < 8e6
    assert tifffile.imread(path, level=0).sum() == 3 * 100 * 100


@pytest.mark.parametrize("product", ["probabilities", "uncertainty"])
def test_an_image_that_was_not_kept_is_named(tmp_path: Path, product: Product) -> None:
    source = make_result(tmp_path / "result", np.ones((64, 64), np.uint8))
    with pytest.raises(ConfigError, match=f"has kept no {product}; run again with --keep {product} --restart"):
        write_ome_tiff(source, tmp_path / "x.ome.tif", product, FILES)


def test_an_existing_file_stays_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    source, path = make_result(tmp_path / "result", np.ones((64, 64), np.uint8)), tmp_path / "x.ome.tif"
    path.write_text("mine")
    with pytest.raises(StoreError, match="--overwrite"):
        write_ome_tiff(source, path, "mask", FILES)
    assert path.read_text() == "mine"
    write_ome_tiff(source, path, "mask", FileOptions(overwrite=True))
    assert tifffile.imread(path).all()


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    source = make_result(tmp_path / "result", np.ones((64, 64), np.uint8))
    with pytest.raises(ConfigError, match=r"\.ome\.tif"):
        write_ome_tiff(source, tmp_path / "x.tif", "mask", FILES)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_result(tmp_path / "result", np.ones((64, 64), np.uint8))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tifffile.TiffWriter, "write", full)
    with pytest.raises(StoreError, match="no space left"):
        write_ome_tiff(source, tmp_path / "x.ome.tif", "mask", FILES)
    assert [p.name for p in tmp_path.iterdir()] == ["result"]
