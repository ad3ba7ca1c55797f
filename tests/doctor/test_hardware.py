"""What a container or a batch system allows is found in its control groups, of both kinds."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from wsi_magnet.doctor.hardware import gather_memory, gather_open_files, gather_processors, memory_limit


def groups(folder: Path, line: str, files: dict[str, str]) -> tuple[Path, Path]:
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text(line)
    for name, text in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "proc", folder / "cgroup"


def test_the_least_of_all_groups_above_binds(tmp_path: Path) -> None:
    files = {"memory.max": "max\n", "job/memory.max": "3000\n", "job/step/memory.max": "5000\n"}
    assert memory_limit(*groups(tmp_path, "0::/job/step\n", files)) == 3000


def test_the_first_version_of_control_groups(tmp_path: Path) -> None:
    files = {"memory/memory.limit_in_bytes": str(2**63 - 4096), "memory/job/memory.limit_in_bytes": "7000\n"}
    assert memory_limit(*groups(tmp_path, "5:cpu:/x\n4:memory:/job\n", files)) == 7000


def test_no_limit(tmp_path: Path) -> None:
    assert memory_limit(*groups(tmp_path, "0::/job\n", {"job/memory.max": "max\n"})) is None
    assert memory_limit(tmp_path / "no", tmp_path / "no") is None


def test_this_machine() -> None:
    memory, processors = gather_memory(), gather_processors()
    assert memory.total
    assert memory.available
    assert memory.total >= memory.available > 0
    assert 1 <= processors.usable <= len(os.sched_getaffinity(0)) <= processors.machine
    assert gather_open_files().soft == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
