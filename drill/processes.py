"""The processes of one drill: each in its own session, some supervised, all ended at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType

import psutil

from drill.stage import ROOT

_POLL_S = 0.2


class Processes:
    """Starts processes, and kills the remaining ones when the drill is over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: dict[subprocess.Popen[bytes], Path] = {}
        """Processes, with the files of their standard error."""
        self._numbers, self._lock = count(), threading.Lock()
        self._over = threading.Event()
        self._supervisors: list[threading.Thread] = []

    def start(self, command: Sequence[str], name: str, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a process whose output goes to its own files, NAME.out and NAME.err."""
        with self._lock:
            number = next(self._numbers)
        self._folder.mkdir(parents=True, exist_ok=True)
        with (
            (self._folder / f"{number:03}-{name}.out").open("wb") as out,
            (self._folder / f"{number:03}-{name}.err").open("wb") as err,
        ):
            process = subprocess.Popen(
                command, env=env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
        with self._lock:
            self._started[process] = self._folder / f"{number:03}-{name}.err"
        return process

    def errors(self, process: subprocess.Popen[bytes]) -> str:
        """Everything that a process wrote to its standard error."""
        return self._started[process].read_text(errors="replace")

    def supervise(self, start: Callable[[], subprocess.Popen[bytes]]) -> list[subprocess.Popen[bytes]]:
        """Start a process, and restart it whenever it ends, as a batch system or systemd does.

        Returns all processes started so far; the last is the current one.
        """
        generations = [start()]

        def watch() -> None:
            while not self._over.wait(_POLL_S):
                if generations[-1].poll() is not None:
                    generations.append(start())

        supervisor = threading.Thread(target=watch, daemon=True)
        supervisor.start()
        self._supervisors.append(supervisor)
        return generations

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for supervisor in self._supervisors:
            supervisor.join()
        for process in self._started:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children, and wait for it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # it leads its session; its children are in the same group
    process.wait()


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Dask's worker processes under a nanny or a run."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    except psutil.Error:
        return []
