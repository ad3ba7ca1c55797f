"""Measuring whole processes: time and peak memory as the operating system saw them."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from wsi_magnet.machine import cpu_threads


@dataclass(frozen=True, slots=True)
class Measured:
    """One finished process."""

    seconds: float
    peak_bytes: int
    """Largest resident memory."""


def measure(command: Sequence[str]) -> Measured:
    """Run a command to its end; raises CalledProcessError if it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=error)
    unit = 1 if platform.system() == "Darwin" else 1024
    return Measured(time.perf_counter() - started, usage.ru_maxrss * unit)


def machine() -> str:
    """One line about where and how busy."""
    load = os.getloadavg()[0]
    return (
        f"{platform.machine()}, {cpu_threads()} CPUs, Python {platform.python_version()}, load {load:.1f} at the start"
    )
