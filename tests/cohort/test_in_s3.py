"""A cohort whose results lie in S3, against a real server."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.cohort.made import Batches, write_slide
from tests.commands import Call
from tests.runs import labels_of
from tests.s3 import objects
from wsi_magnet.cohort.events import CohortEvent, SlideEvent
from wsi_magnet.cohort.status import Status, status_of
from wsi_magnet.errors import ResultBusyError
from wsi_magnet.results.events import TileFinished
from wsi_magnet.storage.location import to_location
from wsi_magnet.storage.lock import locked_folder


@pytest.mark.slow
def test_a_cohort_in_s3(batches: Batches, bucket: str, call: Call, tmp_path: Path) -> None:
    for patient in (1, 2):
        write_slide(batches.slides / f"p{patient}" / "a.tif", patient)
    (batches.slides / "bad.svs").write_bytes(b"")
    away = replace(batches, out=to_location(bucket), events=[])
    stopped: list[Status] = []

    def stop(event: CohortEvent) -> None:
        if isinstance(event, SlideEvent) and isinstance(event.event, TileFinished):
            stopped.append(status_of(away.out))
            raise KeyboardInterrupt

    away.observer = stop
    with pytest.raises(KeyboardInterrupt):
        away.run(in_flight=1)
    assert (stopped[0].state, stopped[0].counts) == ("running", {"failed": 1, "running": 1, "waiting": 1})
    assert "process" in (stopped[0].worker or "")
    told = status_of(away.out)
    assert (told.state, told.worker, told.counts) == ("stopped", None, {"failed": 1, "waiting": 2})
    assert told.resume_command is not None
    assert f"-o {bucket}" in told.resume_command

    away.observer = None
    summary = away.run()
    assert summary.counts == {"finished": 2, "failed": 1}
    assert away.run().worked_on == 0
    batches.run()
    for name in ("p1-a", "p2-a"):
        assert np.array_equal(labels_of(away.out / name), labels_of(batches.out / name))
    found = objects(bucket)
    assert {"summary.csv", "summary.md", "log.jsonl", ".cohort/bad.json", "p1-a/log.jsonl"} <= found.keys()
    events = [json.loads(line)["event"] for line in found["log.jsonl"].splitlines()]
    assert (events.count("batch started"), events.count("batch ended")) == (3, 3)
    assert f"wsi-magnet batch {batches.slides}/bad.svs -o {bucket}" in found["summary.csv"].decode()
    assert call("status", bucket, "--json").exit_code == 1


@pytest.mark.slow
def test_one_batch_at_a_time_in_s3(batches: Batches, bucket: str) -> None:
    write_slide(batches.slides / "a.tif")
    away = replace(batches, out=to_location(bucket), events=[])
    with locked_folder(to_location(bucket), "batch"), pytest.raises(ResultBusyError, match="another batch"):
        away.run()
    assert away.run().all_well
