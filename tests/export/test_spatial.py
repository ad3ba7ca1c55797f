"""SpatialData stores hold the mask's own levels, in place, and a table that says what its labels are."""

from __future__ import annotations

import errno
import importlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr

from tests.export.results import CLASSES, Made, make_result, make_sparse_result
from tests.runs import local
from wsi_magnet.config import Ngff
from wsi_magnet.errors import ConfigError, StoreError
from wsi_magnet.export import spatial
from wsi_magnet.export.spatial import LABELS, TABLE, write_spatialdata
from wsi_magnet.geometry import Box
from wsi_magnet.labels import with_reserved
from wsi_magnet.results.reader import Result
from wsi_magnet.storage.output import FileOptions

FILES = FileOptions()

MADE = Made(mpp=1.0, slide_mpp=0.25, bounds_xy=(40, 100))


def random_result(folder: Path, made: Made = MADE) -> Result:
    """Three cells wide and two and a bit high; the middle column is empty, 0.000 01 mm² are not analysed."""
    mask = np.random.default_rng(0).integers(0, 5, (1100, 1400), np.uint8)
    mask[:, 512:1024] = 0
    mask[:2, :5] = 255
    return make_result(folder, mask, made)


def stored(source: Result, level: int) -> npt.NDArray[np.uint8]:
    return source.mask_image.read(level, Box.of(source.mask_image.spec.sizes[level]))


def written_in(path: Path) -> npt.NDArray[Any]:
    return np.asarray(zarr.open_array(path, mode="r")[...])


def attributes(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "zarr.json").read_text())["attributes"]
    return found


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return random_result(tmp_path_factory.mktemp("spatial") / "result")


@pytest.fixture(scope="module")
def written(result: Result) -> Path:
    """The result as a store, to be looked at only."""
    (path,) = write_spatialdata(result, local(result.folder).with_name("x.zarr"), FILES).files
    return path


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_every_level_is_the_store_s_own(tmp_path: Path, ngff: Ngff) -> None:
    source = random_result(tmp_path / "result", Made(ngff=ngff))
    (path,) = write_spatialdata(source, tmp_path / "x.zarr", FILES).files
    (scales,) = attributes(path / "labels" / LABELS)["ome"]["multiscales"]
    copies = [written_in(path / "labels" / LABELS / d["path"]) for d in scales["datasets"]]
    assert [(c == stored(source, i)).all() for i, c in enumerate(copies)] == [True] * len(source.levels)


def test_a_pixel_lies_on_the_slide_and_in_microns(written: Path) -> None:
    """The corner of pixel (x, y) = (10, 20), of 4 x 4 level-0 pixels, where the canvas begins at (40, 100)."""
    (scales,) = attributes(written / "labels" / LABELS)["ome"]["multiscales"]
    placed = {t["output"]["name"]: np.array(t["affine"]) @ (20, 10, 1) for t in scales["coordinateTransformations"]}
    assert {name: yx.tolist() for name, yx in placed.items()} == {"global": [180, 80], "microns": [45, 20]}


def test_the_table_says_what_the_labels_are(written: Path) -> None:
    table = written / "tables" / TABLE
    labels = [c for c in with_reserved(CLASSES) if c.value]
    assert written_in(table / "obs" / "name").tolist() == [c.name for c in labels]
    assert written_in(table / "obs" / "instance_id").tolist() == [c.value for c in labels]
    assert written_in(table / "obs" / "color").tolist()[0] == "#96C896"


def test_the_table_has_the_areas(result: Result, written: Path) -> None:
    counted = [int((stored(result, 0) == value).sum()) / 1e6 for value in (1, 2, 3, 4, 255)]
    assert written_in(written / "tables" / TABLE / "X") == pytest.approx(np.array(counted)[:, None])


def test_every_part_of_the_table_tells_its_encoding(written: Path) -> None:
    parts = [path.parent for path in (written / "tables" / TABLE).rglob("zarr.json")]
    assert all({"encoding-type", "encoding-version"} <= attributes(part).keys() for part in parts)


def test_a_run_that_goes_on_gives_its_finest_complete_scale(tmp_path: Path) -> None:
    source = random_result(tmp_path / "result", Made(state="running", first_level=1))
    exported = write_spatialdata(source, tmp_path / "x.zarr", FILES)
    assert (written_in(tmp_path / "x.zarr" / "labels" / LABELS / "0") == stored(source, 1)).all()
    assert "2 µm/px" in exported.notes[0]


def test_what_was_never_written_costs_nothing(tmp_path: Path) -> None:
    """400 megapixels with one patch: a single object of the finest level, and less than an eighth in memory."""
    make_sparse_result(tmp_path / "result", 20_000, [(5_300, 5_300, np.full((100, 100), 3, np.uint8))])
    source = Result(tmp_path / "result")
    tracemalloc.start()
    write_spatialdata(source, tmp_path / "x.zarr", FILES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
    assert len([p for p in (tmp_path / "x.zarr" / "labels" / LABELS / "0" / "c").rglob("*") if p.is_file()]) == 1


def test_an_existing_store_stays_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    source, path = make_result(tmp_path / "result", np.ones((64, 64), np.uint8)), tmp_path / "x.zarr"
    write_spatialdata(source, path, FILES)
    (path / "mine").touch()
    with pytest.raises(StoreError, match="--overwrite"):
        write_spatialdata(source, path, FILES)
    assert (path / "mine").exists()
    write_spatialdata(source, path, FileOptions(overwrite=True))
    assert not (path / "mine").exists()


def test_only_a_spatialdata_store_is_ever_replaced(result: Result) -> None:
    with pytest.raises(StoreError, match="not a SpatialData store"):
        write_spatialdata(result, local(result.mask_image.spec.path), FileOptions(overwrite=True))
    assert stored(result, 0).any()


def test_another_suffix_is_refused(result: Result, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.zarr"):
        write_spatialdata(result, tmp_path / "x.h5ad", FILES)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_result(tmp_path / "result", np.ones((64, 64), np.uint8))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spatial, "write_values", full)
    with pytest.raises(StoreError, match="no space left"):
        write_spatialdata(source, tmp_path / "x.zarr", FILES)
    assert [p.name for p in tmp_path.iterdir()] == ["result"]


def test_the_library_reads_it(result: Result, written: Path) -> None:
    """Where `spatialdata` is installed; it asks for an older Dask than is pinned, so seldom beside this program."""
    pytest.importorskip("spatialdata")
    data = importlib.import_module("spatialdata").read_zarr(written)
    finest = data.labels[LABELS]["scale0"]["image"]
    assert (finest.to_numpy() == stored(result, 0)).all()
    assert data.tables[TABLE].obs["name"].tolist() == [c.name for c in with_reserved(CLASSES) if c.value]
