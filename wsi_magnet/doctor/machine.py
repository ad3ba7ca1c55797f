"""Checks of cores, memory and limits of this process."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from wsi_magnet.doctor.check import CheckResult, Needs, Request, ok, problem, warning
from wsi_magnet.system import computes_bf16, cpu_threads
from wsi_magnet.text import byte_text, counted

OPEN_FILES = 1024
"""Open files that a process needs at least: Dask and its workers keep hundreds."""

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")

_NO_LIMIT_BYTES = 1 << 60
"""Control groups of version 1 write a number about as large for "no limit"."""


def check_machine(request: Request, needs: Needs) -> Iterator[CheckResult]:
    """Check cores, memory and open files."""
    yield check_cores()
    yield check_memory(request, needs)
    yield check_open_files()


def check_cores() -> CheckResult:
    """Cores that a run may use, and their bfloat16 instructions."""
    usable, total = cpu_threads(), os.cpu_count() or 1
    bf16 = "with bfloat16 instructions" if computes_bf16() else "without bfloat16 instructions"
    return ok("cores", f"{usable} usable of {total}, {bf16}" if usable < total else f"{usable}, {bf16}")


def check_memory(request: Request, needs: Needs) -> CheckResult:
    """Check that a run fits into the memory of this machine, container or job; cluster runs need little here."""
    known, limit = _meminfo(_PROC / "meminfo"), memory_limit()
    total, free = known.get("MemTotal"), known.get("MemAvailable")
    bound = min((b for b in (total, limit) if b is not None), default=None)
    required = needs.memory_bytes(request.processes, request.threads)
    if bound is None:
        return warning("memory", "its size is unknown on this system", f"check that {byte_text(required)} are free")
    text = byte_text(bound) + (" allowed to this process (cgroup or ulimit)" if bound == limit else "")
    if free is not None and free < bound:
        text += f", {byte_text(free)} free"
    if request.remote:
        return ok("memory", text)
    workers = f"{counted(request.processes, 'process', 'processes')} of {counted(request.threads, 'thread')}"
    text += f"; a run takes about {byte_text(required)} ({workers})"
    fewer = f"allow fewer cores (`taskset -c 0`): with one thread a run takes {byte_text(needs.memory_bytes(1, 1))}"
    if required > bound:
        return problem("memory", text, f"raise the limit, or {fewer}")
    if free is not None and required > free:
        return warning("memory", text, f"end other programs, or {fewer}")
    return ok("memory", text)


def check_open_files() -> CheckResult:
    """Check the limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES:
        return ok("open files", "no limit" if soft == resource.RLIM_INFINITY else f"up to {soft} in a process")
    text = f"only {soft} allowed in a process; Dask may need {OPEN_FILES}"
    if hard == resource.RLIM_INFINITY or hard >= OPEN_FILES:
        return warning("open files", text, f"run `ulimit -n {OPEN_FILES}` first")
    return warning("open files", text, f"ask the administrator for {OPEN_FILES} (nofile in /etc/security/limits.conf)")


def memory_limit(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int | None:
    """The least of what control groups and `ulimit -v` allow this process, in bytes; None without a limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    limits = [] if soft == resource.RLIM_INFINITY else [soft]
    limits += [limit for limit in _cgroup_limits(proc, cgroup) if limit < _NO_LIMIT_BYTES]
    return min(limits, default=None)


def _cgroup_limits(proc: Path, cgroup: Path) -> Iterator[int]:
    """Limits of this process's control groups and of all above them: each one binds."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers == "":
            root, name = cgroup, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = cgroup / "memory", "memory.limit_in_bytes"
        else:
            continue
        folder = root / path.lstrip("/")
        for above in (folder, *folder.parents):
            with suppress(OSError, ValueError):  # no such group in this container, or "max"
                yield int((above / name).read_text())
            if above == root:
                break


def _meminfo(file: Path) -> dict[str, int]:
    """Values of /proc/meminfo in bytes, by name."""
    try:
        words = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {w[0].rstrip(":"): int(w[1]) * 1024 for w in words if len(w) == 3 and w[2] == "kB"}
