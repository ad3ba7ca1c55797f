"""Outages and full disks, which no slide causes: they end a batch in order."""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cohort.made import Batches, write_free_bundle, write_slide
from tests.few import slow_except
from wsi_magnet.cohort import slide_task as slide_run
from wsi_magnet.cohort.events import BatchEnded, BatchNote, CohortEvent, SlideEnded
from wsi_magnet.cohort.state import States
from wsi_magnet.errors import CohortError, OutageError, StoreError
from wsi_magnet.segment.slide import segment_slide
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Url

OUTAGES: list[tuple[Path | Url, Exception]] = [
    (Path("/share/out"), OSError(errno.ESTALE, "Stale file handle")),
    (Path("/share/out"), OSError(errno.EIO, "Input/output error")),
    (Url("s3", "bucket/out"), ConnectionError("refused")),
]


@pytest.mark.parametrize(("place", "error"), slow_except(OUTAGES[:1], OUTAGES))
def test_an_output_that_does_not_answer_ends_the_batch(
    batches: Batches, monkeypatch: pytest.MonkeyPatch, place: Any, error: Exception
) -> None:
    for i in range(3):
        write_slide(batches.slides / f"{i}.tif", i)

    def away(slide: Any, *args: Any, **options: Any) -> Any:
        if str(slide).endswith("1.tif"):
            with storage_errors(place):
                raise error
        return segment_slide(slide, *args, **options)

    monkeypatch.setattr(slide_run, "segment_slide", away)
    with pytest.raises(OutageError, match=r"does not answer.*run the same command again"):
        batches.run(in_flight=1)
    assert [state.state for state in States(batches.out).read().values()] == ["finished", "waiting", "waiting"]
    monkeypatch.undo()
    assert batches.run().worked_on == 2


def test_a_bundle_that_is_replaced_ends_the_batch(batches: Batches, tmp_path: Path) -> None:
    for i in range(2):
        write_slide(batches.slides / f"{i}.tif", i)
    (tmp_path / "other").mkdir()
    own = replace(batches, bundle=Path(shutil.copy(batches.bundle, tmp_path / "own.safetensors")))
    other = write_free_bundle(tmp_path / "other", name="other")

    def observe(event: CohortEvent) -> None:
        if isinstance(event, SlideEnded):
            shutil.copy(other, own.bundle)

    own.observer = observe
    with pytest.raises(CohortError, match=r"own\.safetensors has been replaced"):
        own.run(in_flight=1)
    assert [state.state for state in States(own.out).read().values()] == ["finished", "waiting"]
    shutil.copy(batches.bundle, own.bundle)
    own.observer = None
    assert own.run().all_well


def test_a_table_that_cannot_be_replaced_stops_no_slide(batches: Batches) -> None:
    for i in range(3):
        write_slide(batches.slides / f"{i}.tif", i)
    (batches.folder / "summary.csv").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"summary\.csv is damaged .*remove it"):
        batches.run()
    assert {state.state for state in States(batches.out).read().values()} == {"finished"}
    assert len([note for note in batches.of_kind(BatchNote) if "summary.csv" in note.text]) == 1
    assert batches.of_kind(BatchEnded)
    (batches.folder / "summary.csv").rmdir()
    assert batches.run().all_well
    assert (batches.folder / "summary.csv").is_file()


def test_a_result_is_no_output_of_a_batch(batches: Batches) -> None:
    write_slide(batches.slides / "a.tif")
    batches.run()
    inside = replace(batches, out=batches.folder / "a")
    with pytest.raises(CohortError, match="is the result of a slide; choose another output folder"):
        inside.run()
    assert not (batches.folder / "a" / ".cohort").exists()
