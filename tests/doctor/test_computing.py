"""torch looked at, and a run on the made slide: as it should be, and with what stands in its way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import MadeRun
from wsi_magnet.config import Execution
from wsi_magnet.doctor.asked import Asked
from wsi_magnet.doctor.computing import driver_version, look_at_torch, try_run
from wsi_magnet.runtime.serial import SerialExecutor


def test_what_torch_computes_on_here() -> None:
    found = look_at_torch(Asked(Execution(device="cpu")))
    assert (found.resolved, found.bundle_error) == ("cpu", None)
    assert found.precision in ("mixed", "fp32")


def test_a_device_that_is_not_here_and_a_bundle_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    found = look_at_torch(Asked(Execution(device="cuda:99"), str(tmp_path / "b.safetensors")))
    assert found.resolved is None
    assert "not a wsi-magnet bundle" in str(found.bundle_error)


def test_the_device_here_does_not_matter_where_others_work() -> None:
    asked = Asked(Execution(device="cuda:99", scheduler="tcp://head:8786"))
    assert look_at_torch(asked).resolved is not None


def test_a_run_from_end_to_end(made_run: MadeRun, tmp_path: Path) -> None:
    found = try_run(tmp_path, str(made_run.bundle), SerialExecutor(), "here")
    assert (found.error, found.failures) == (None, ())
    assert set(found.labels) <= set(found.known) == {0, 1, 2, 3, 255}
    assert sum(count for value, count in found.labels.items() if value in (1, 2, 3)) > 500_000


def test_a_run_that_cannot_be_written(made_run: MadeRun, tmp_path: Path) -> None:
    (tmp_path / "made").write_text("in the way")
    assert "made" in str(try_run(tmp_path, str(made_run.bundle), SerialExecutor(), "here").error)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5", "550.54.15"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build", "570.86.15"),
        ("something else", "unknown"),
    ],
)
def test_the_drivers_version(text: str, version: str, tmp_path: Path) -> None:
    (tmp_path / "version").write_text(text)
    assert driver_version(tmp_path / "version") == version
    assert driver_version(tmp_path / "none") is None
