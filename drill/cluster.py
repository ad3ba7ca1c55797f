"""A Dask cluster of real processes: a scheduler and workers under nannies, restarted when they end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from drill.processes import workers_of
from drill.scene import Scene
from drill.stage import environment

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Site:
    """Host, namespace, environment and options of a process of the cluster."""

    host: str = HOST
    prefix: Sequence[str] = ()
    """Words before the command, which put it into a network or mount namespace."""
    env: Mapping[str, str] = field(default_factory=dict)
    options: Sequence[str] = ()


class Cluster:
    """Scheduler and workers, each restarted when it ends."""

    def __init__(self, scene: Scene, workers: Sequence[Site], scheduler: Site | None = None) -> None:
        self._processes, self._space = scene.processes, scene.folder / "dask"
        site = scheduler or Site()
        self.address = f"tcp://{site.host}:{free_port()}"
        self._scheduler = self._processes.supervise(lambda: self._start_scheduler(site))
        self._nannies = [self._processes.supervise(self._starter(site)) for site in workers]
        scene.until(lambda: self.registered >= len(workers), "the workers do not start", 90)

    def _start_scheduler(self, site: Site) -> subprocess.Popen[bytes]:
        host, _, port = self.address.removeprefix("tcp://").partition(":")
        words = ["distributed.cli.dask_scheduler", "--host", host, "--port", port, "--no-dashboard", *site.options]
        return self._processes.start([*site.prefix, sys.executable, "-m", *words], "scheduler", environment(**site.env))

    def _starter(self, site: Site) -> Callable[[], subprocess.Popen[bytes]]:
        words = ["distributed.cli.dask_worker", self.address, "--host", site.host, "--no-dashboard"]
        words += ["--nthreads", "1", "--nworkers", "1", "--local-directory", str(self._space)]
        words += site.options if "--memory-limit" in site.options else ["--memory-limit", "0", *site.options]
        command = [*site.prefix, sys.executable, "-m", *words]
        return lambda: self._processes.start(command, "worker", environment(**site.env))

    @property
    def scheduler(self) -> subprocess.Popen[bytes]:
        """The current scheduler process."""
        return self._scheduler[-1]

    @property
    def registered(self) -> int:
        """Number of workers that registered with the current scheduler, including lost ones."""
        return self._processes.errors(self.scheduler).count("Register worker")

    @property
    def nannies(self) -> list[subprocess.Popen[bytes]]:
        """The current nanny processes."""
        return [generations[-1] for generations in self._nannies]

    @property
    def workers(self) -> list[psutil.Process]:
        """The nannies' worker processes."""
        return [worker for nanny in self.nannies for worker in workers_of(nanny)]


def free_port() -> int:
    """An unused port."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("", 0))
        return int(one.getsockname()[1])


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a process and its children; no-op if it has ended."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
