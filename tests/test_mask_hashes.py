"""The hashes that prove a result unchanged: of the pixels only, and every difference is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from benchmarks import mask_hashes
from benchmarks.mask_hashes import HashError, Levels, Record, Session, compare, hash_array, hash_result, main

PIXELS = np.arange(2 * 7 * 5, dtype=np.uint16).reshape(2, 7, 5)
LEVELS = {"mask/0": "4x4 aa", "mask/1": "2x2 bb"}
SLIDE = "demo"


def stored(path: Path, pixels: np.ndarray[Any, Any], **options: Any) -> zarr.Array[Any]:
    array = zarr.create_array(path, shape=pixels.shape, dtype=pixels.dtype, **options)
    array[:] = pixels
    return array


def record(**runs: Any) -> Record:
    return Record({"version": "1", "commit": "c"}, {"cpu": "one"}, dict(runs))


def made(**by_way: Levels) -> Callable[[Path, Sequence[str]], Levels]:
    """A program whose results are LEVELS, or what is given for a way of running it."""
    return lambda slide, options: by_way.get("workers" if "--workers" in options else "here", LEVELS)


@pytest.mark.parametrize("block_bytes", [1, 30, 1 << 20])
@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (1, 2, 2), "zarr_format": 2},
        {"chunks": (2, 7, 5), "zarr_format": 3, "compressors": None},
        {"chunks": (1, 2, 2), "shards": (1, 4, 4), "zarr_format": 3},
    ],
)
def test_a_hash_is_of_the_pixels_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], block_bytes: int
) -> None:
    monkeypatch.setattr(mask_hashes, "BLOCK_BYTES", block_bytes)
    assert hash_array(stored(tmp_path, PIXELS, **options)) == hashlib.sha256(b"<u2" + PIXELS.tobytes()).hexdigest()


def test_a_hash_does_not_depend_on_the_byte_order(tmp_path: Path) -> None:
    big = stored(tmp_path / "big", PIXELS.astype(">u2"), chunks=PIXELS.shape, zarr_format=2)
    assert hash_array(big) == hash_array(stored(tmp_path / "little", PIXELS, chunks=PIXELS.shape))


def test_a_hash_depends_on_every_pixel(tmp_path: Path) -> None:
    array = stored(tmp_path, PIXELS, chunks=(1, 2, 2))
    before = hash_array(array)
    array[1, 6, 4] = 0
    assert hash_array(array) != before


def test_all_levels_of_all_products_are_hashed(tmp_path: Path) -> None:
    for name in mask_hashes.PRODUCTS:
        zarr.open_group(tmp_path / f"{name}.ome.zarr", mode="w")
        (tmp_path / f"{name}.ome.zarr" / "OME").mkdir()
        for level in range(2):
            stored(tmp_path / f"{name}.ome.zarr" / str(level), PIXELS[0], chunks=(4, 4))
    levels = hash_result(tmp_path)
    assert list(levels) == [f"{name}/{level}" for name in mask_hashes.PRODUCTS for level in range(2)]
    assert set(levels.values()) == {f"7x5 {hashlib.sha256(b'<u2' + PIXELS[0].tobytes()).hexdigest()}"}


@pytest.mark.parametrize(
    ("found", "differences"),
    [
        (LEVELS, []),
        ({**LEVELS, "mask/1": "2x2 cc"}, ["mask/1 is 2x2 cc, not 2x2 bb"]),
        ({"mask/0": "4x4 aa"}, ["mask/1 is missing"]),
        ({**LEVELS, "mask/2": "1x1 dd"}, ["mask/2 is not in the record"]),
    ],
)
def test_what_differs_is_named(found: dict[str, str], differences: list[str]) -> None:
    assert compare(LEVELS, found) == differences


def test_a_record_comes_back_and_reads_the_same_each_time(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    new = record()
    new.add(SLIDE, "all", "in-process", LEVELS)
    new.add(SLIDE, "all", "two workers", LEVELS)
    new.save(path)
    text = path.read_text()
    kept = Record.load(path)
    kept.save(path)
    assert path.read_text() == text
    assert kept.levels(SLIDE, "all") == LEVELS
    assert kept.has(SLIDE, "all", "two workers")
    assert not kept.has(SLIDE, "auto", "two workers")
    assert json.loads(text)["machine"] == {"cpu": "one"}


def test_recording_runs_each_way_once_and_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "record.json"
    first = Session(made(), record(), path)
    first.run(SLIDE, Path("slide"), "all", "in-process")
    second = Session(made(), Record.load(path), path)
    second.run_all([SLIDE])
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == ["demo all in-process mask 0 4x4 aa", "demo all in-process mask 1 2x2 bb"]
    assert printed[2] == "demo all in-process: recorded before"
    assert second.close() == 0
    ways = {"ways": ["in-process", "two workers"], "levels": LEVELS}
    assert Record.load(path).runs == {SLIDE: dict.fromkeys(mask_hashes.REFINEMENTS, ways)}


def test_unequal_ways_are_named_and_not_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = Session(made(workers={**LEVELS, "mask/0": "4x4 ee"}), record(), tmp_path / "record.json")
    for way in mask_hashes.WAYS:
        session.run(SLIDE, Path("slide"), "all", way)
    assert session.close() == 1
    assert "DIFFERS: demo all two workers: mask/0 is 4x4 ee, not 4x4 aa" in capsys.readouterr().out
    assert not Record.load(tmp_path / "record.json").has(SLIDE, "all", "two workers")


def test_a_check_compares_every_way_and_leaves_the_record_alone(capsys: pytest.CaptureFixture[str]) -> None:
    known = record(demo={"all": {"ways": ["in-process"], "levels": LEVELS}})
    session = Session(made(workers={"mask/0": "4x4 aa"}), known, fixed=True)
    for refine in ("all", "auto"):
        for way in mask_hashes.WAYS:
            session.run(SLIDE, Path("slide"), refine, way)
    assert session.close() == 1
    named = [line for line in capsys.readouterr().out.splitlines() if line.startswith("DIFFERS")]
    assert named == [
        "DIFFERS: demo all two workers: mask/1 is missing",
        "DIFFERS: demo auto in-process: is not in the record",
        "DIFFERS: demo auto two workers: is not in the record",
    ]
    assert known.runs == {"demo": {"all": {"ways": ["in-process"], "levels": LEVELS}}}


def test_an_absent_slide_is_named_and_a_check_of_nothing_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(mask_hashes.TEST_DATA, raising=False)
    session = Session(made(), record(), fixed=True)
    session.run_all(["BS9_HE2"])
    assert session.close() == 1
    printed = capsys.readouterr().out
    assert "BS9_HE2 skipped" in printed
    assert "FAILED: nothing was compared" in printed


def test_a_folder_without_the_program_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--program", str(tmp_path), "--slides", SLIDE]) == 1
    assert "FAILED" in capsys.readouterr().err


def test_a_record_of_another_program_is_not_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "record.json"
    record().save(path)
    assert main(["--record", str(path), "--slides", SLIDE]) == 1
    assert "of another program or machine" in capsys.readouterr().err


def test_a_file_that_is_no_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("[]")
    with pytest.raises(HashError, match="not a record of hashes"):
        Record.load(tmp_path / "record.json")


def test_the_record_in_the_repository_is_complete() -> None:
    path = mask_hashes.ROOT / "benchmarks" / "records" / "mask_hashes.json"
    if not path.exists():
        pytest.skip("nothing is recorded yet")
    kept = Record.load(path)
    for slide in mask_hashes.SLIDES:
        for refine in mask_hashes.REFINEMENTS:
            assert all(kept.has(slide, refine, way) for way in mask_hashes.WAYS)
