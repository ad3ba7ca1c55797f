"""Processors, memory and limits of this process, from what the system says."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from wsi_magnet.doctor.facts import Memory, OpenFiles, Processors
from wsi_magnet.system import computes_bf16, cpu_threads

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")

_NO_LIMIT_BYTES = 1 << 60
"""Control groups of the first version write a number about as large for "no limit"."""


def gather_processors() -> Processors:
    """Of this machine."""
    return Processors(os.cpu_count() or 1, cpu_threads(), computes_bf16())


def gather_memory() -> Memory:
    """Of this machine, and of the container or job that this process is in."""
    known = _meminfo(_PROC / "meminfo")
    return Memory(known.get("MemTotal"), known.get("MemAvailable"), memory_limit())


def gather_open_files() -> OpenFiles:
    """Of this process."""
    return OpenFiles(*resource.getrlimit(resource.RLIMIT_NOFILE))


def memory_limit(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int | None:
    """The least of what control groups and `ulimit -v` allow this process, in bytes; None without a limit."""
    limits = [limit for limit in (_address_space(), *_cgroup_limits(proc, cgroup)) if limit < _NO_LIMIT_BYTES]
    return min(limits, default=None)


def _address_space() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return _NO_LIMIT_BYTES if soft == resource.RLIM_INFINITY else soft


def _cgroup_limits(proc: Path, cgroup: Path) -> list[int]:
    """Of the process's groups and of all above them: each binds."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers == "":
            root, name = cgroup, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = cgroup / "memory", "memory.limit_in_bytes"
        else:
            continue
        folder = root / path.lstrip("/")
        for above in (folder, *folder.parents):
            found += _number(above / name)
            if above == root:
                break
    return found


def _number(file: Path) -> list[int]:
    try:
        return [int(file.read_text())]
    except (OSError, ValueError):  # no such group here, or "max"
        return []


def _meminfo(file: Path) -> dict[str, int]:
    """Bytes by name."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    words = (line.split() for line in lines)
    return {w[0].rstrip(":"): int(w[1]) * 1024 for w in words if len(w) == 3 and w[2] == "kB"}
