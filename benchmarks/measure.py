"""Time and peak memory of whole processes, as measured by the operating system."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from wsi_magnet.system import cpu_threads


@dataclass(frozen=True, slots=True)
class Measured:
    """One finished process."""

    seconds: float
    peak_bytes: int
    """Largest resident memory."""


LAUNCHER = """
import os, sys, time
silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
started = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=silent)
_, status, usage = os.wait4(child, 0)
print(time.perf_counter() - started, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Starts a process from a smaller one: Linux counts as a child's peak what its parent had ever used before the child's
program began, and a benchmark's libraries are larger than Python alone."""


def measure(command: Sequence[str]) -> Measured:
    """Run a command, whose first word is the path of a program, to its end.

    Raises CalledProcessError, with its output, if it fails.
    """
    done = subprocess.run([sys.executable, "-S", "-c", LAUNCHER, *command], capture_output=True, text=True)
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, command, stderr=done.stderr)
        error.add_note(done.stderr)
        raise error
    seconds, peak = done.stdout.split()
    return Measured(float(seconds), int(peak) * (1 if platform.system() == "Darwin" else 1024))


def machine() -> str:
    """One line about the machine and its load."""
    load = os.getloadavg()[0]
    return (
        f"{platform.machine()}, {cpu_threads()} CPUs, Python {platform.python_version()}, load {load:.1f} at the start"
    )
