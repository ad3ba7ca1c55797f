"""Cores, memory and open files, with faked numbers."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from wsi_magnet.config import Execution
from wsi_magnet.doctor import machine
from wsi_magnet.doctor.check import CheckResult, Needs, Request
from wsi_magnet.doctor.machine import check_cores, check_memory, check_open_files, memory_limit

GB = 10**9
NEEDS = Needs(GB, 0)


def memory_of(
    monkeypatch: pytest.MonkeyPatch, total: int, free: int, limit: int | None = None, **execution: str
) -> CheckResult:
    monkeypatch.setattr(machine, "_meminfo", lambda file: {"MemTotal": total, "MemAvailable": free} if total else {})
    monkeypatch.setattr(machine, "memory_limit", lambda: limit)
    return check_memory(Request(Execution(**execution)), NEEDS)  # type: ignore[arg-type]


def test_memory_against_what_a_run_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_of(monkeypatch, 4 * GB, 3 * GB).status == "ok"
    found = memory_of(monkeypatch, 4 * GB, GB // 2)
    assert (found.status, found.remedy[:18]) == ("warning", "end other programs")
    found = memory_of(monkeypatch, 4 * GB, 3 * GB, GB // 2)
    assert found.status == "problem"
    assert found.text.startswith("500.0 MB allowed to this process")
    assert "raise the limit" in found.remedy
    assert memory_of(monkeypatch, 4 * GB, 3 * GB, GB // 2, scheduler="tcp://head:8786").status == "ok"
    assert memory_of(monkeypatch, 0, 0).status == "warning"


def test_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr(machine, "cpu_threads", lambda: 4)
    assert check_cores().text.startswith("4 usable of 8, with")


@pytest.mark.parametrize(
    ("limits", "remedy"),
    [((256, 4096), "ulimit -n"), ((256, 256), "administrator"), ((4096, 4096), ""), ((-1, -1), "")],
)
def test_open_files(monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], remedy: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits)
    found = check_open_files()
    assert found.status == ("warning" if remedy else "ok")
    assert remedy in found.remedy


def test_limits_of_control_groups(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    inner, memory = tmp_path / "group/job/step", tmp_path / "group/memory/job"
    inner.mkdir(parents=True)
    memory.mkdir(parents=True)
    (tmp_path / "self/cgroup").write_text("0::/job/step\n")
    (inner / "memory.max").write_text("max")
    (inner.parent / "memory.max").write_text("1000000")
    assert memory_limit(tmp_path, tmp_path / "group") == 1_000_000
    (tmp_path / "self/cgroup").write_text("4:cpu,memory:/job\n")
    (memory / "memory.limit_in_bytes").write_text("2000000")
    assert memory_limit(tmp_path, tmp_path / "group") == 2_000_000
    (memory / "memory.limit_in_bytes").write_text(str(2**63 - 4096))
    assert memory_limit(tmp_path, tmp_path / "group") is None
