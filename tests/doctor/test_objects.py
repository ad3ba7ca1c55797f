"""An object store tried by writing to it: one that is there, one that is not, and one that knows no conditions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import Call
from tests.doctor.facts_made import only
from tests.runs import MadeRun
from tests.s3 import BUCKET, objects
from wsi_magnet.doctor import objects as looked_at
from wsi_magnet.doctor import verdicts
from wsi_magnet.doctor.facts import Folder, ObjectStore
from wsi_magnet.doctor.objects import gather_output
from wsi_magnet.storage.conditional import create_bytes


def test_a_folder_stays_a_folder(tmp_path: Path) -> None:
    assert isinstance(gather_output(str(tmp_path)), Folder)


def test_what_is_no_store() -> None:
    found = gather_output("sftp://host/results")
    assert isinstance(found, ObjectStore)
    line = only(verdicts.object_store(found), "PROBLEM")
    assert line.cure == "mount it and name the folder"


def test_a_store_that_is_there(s3_server: str) -> None:
    found = gather_output(f"s3://{BUCKET}/doctor")
    assert isinstance(found, ObjectStore)
    assert (found.error, found.conditions) == (None, True)
    assert found.request_s > 0
    assert not objects(f"s3://{BUCKET}/doctor")
    assert "claims hold" in only(verdicts.object_store(found), "ok").text


def test_a_bucket_that_is_not_there(s3_server: str) -> None:
    found = gather_output("s3://no-such-bucket/doctor")
    assert isinstance(found, ObjectStore)
    assert "no such bucket" in only(verdicts.object_store(found), "PROBLEM").text


def test_a_store_that_knows_no_conditions(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write = create_bytes
    monkeypatch.setattr(looked_at, "create_bytes", lambda path, data: write(path, data) or True)
    found = gather_output(f"s3://{BUCKET}/doctor")
    assert isinstance(found, ObjectStore)
    assert not found.conditions
    assert "claims do not hold" in only(verdicts.object_store(found), "warning").text


def test_the_trial_run_goes_there(call: Call, s3_server: str, made_run: MadeRun) -> None:
    result = call("doctor", "--bundle", made_run.bundle, "-o", f"s3://{BUCKET}/doctor")
    assert result.exit_code == 0, result.output
    assert f"into s3://{BUCKET}/doctor: a slide of" in " ".join(result.output.split())
    assert not objects(f"s3://{BUCKET}/doctor")
