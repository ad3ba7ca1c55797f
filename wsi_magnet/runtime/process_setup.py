"""Settings of whole processes: worker processes, which Dask starts, and the command line's own.

Nothing here is done to a process that only imports this package or calls it from Python, except `dask_settings`, which
ends with the executor that needs it.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_magnet.errors import ConfigError
from wsi_magnet.system import keep_memory_steady

if TYPE_CHECKING:
    import asyncio

PRELOAD = "wsi_magnet.runtime.process_setup"
"""Dask's nanny imports this module by name in every worker process, and calls its `dask_setup`."""

SHARES_STDERR = {"WSI_MAGNET_WORKER_SHARES_STDERR": "1"}
"""Environment of worker processes of this machine, which print on the run's own terminal."""

WORKER_ENVIRONMENT = {
    # Memory is planned, not watched: a worker that spills or pauses would only make a run slower.
    "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "False",
    # Tiles take seconds and hold the GIL while they copy.
    "DASK_DISTRIBUTED__ADMIN__TICK__LIMIT": "60s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "60s",
}
"""Dask's settings for workers on other machines, which do not have the configuration of the run's process."""

SETTINGS = {
    # Tiles take seconds and hold the GIL while they copy: the default of 3 s warns about nothing.
    "distributed.admin.tick.limit": "60s",
    # Memory is planned, not watched: a worker that spills or pauses at 60 % would only make a run slower. At 95 % of
    # its limit, its nanny still ends it.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    # A silent worker is cut off after this time, and its tiles go to others. Dask's default is five minutes.
    "distributed.scheduler.worker-ttl": "2 minutes",
    # A process that is late in coming back, on a machine full of work, is not given up for it. Jobs are submitted
    # again by `clusters.resubmit`, which knows the queue; Dask's own timer, which does not, would cancel them.
    "distributed.deploy.lost-worker-timeout": "3650 days",
}
"""Ours in place of Dask's defaults; what users set themselves, in files or DASK_ variables, stands."""

UNGUARDED_MARK = "WSI_MAGNET_UNGUARDED_MARK"
"""Variable with the file that a worker process makes where the program's main module starts a run while the process
imports it, as multiprocessing does before a process works."""

MUTED = ("distributed", "tifffile", "asyncio")
"""Loggers of libraries that `mute_libraries` silences."""

_WORKER_PROCESS = "Dask Worker process (from Nanny)"

_lock = threading.Lock()
_holders = 0
_scope: Any = None
_environment: dict[str, str | None] = {}
"""Variables that Dask's nannies set in their parent process, as they were before."""
_is_command_line = False


def refuse_during_import_of_main() -> None:
    """End a worker process that starts a run, instead of working, because the main module calls it unconditionally.

    Called where a run starts; does nothing anywhere else. The process that starts the workers reports it, in
    `unguarded_main_is_reported`. Raises ConfigError in another program's process.
    """
    process = multiprocessing.current_process()
    if not getattr(process, "_inheriting", False):  # set by multiprocessing while it imports the main module
        return
    if process.name != _WORKER_PROCESS:
        raise ConfigError(_unguarded())
    if mark := os.environ.get(UNGUARDED_MARK):
        with suppress(OSError):
            Path(mark).touch()
    sys.exit(1)  # without a traceback: there would be one for each worker


@contextmanager
def unguarded_main_is_reported() -> Iterator[None]:
    """Context for the start of worker processes: ConfigError, in one line, where the main module starts a run in them.

    A worker process imports the program's main module before it works, as multiprocessing's `spawn` always does.
    """
    before = os.environ.get(UNGUARDED_MARK)
    with tempfile.TemporaryDirectory(prefix="wsi-magnet-") as folder:
        mark = Path(folder) / "unguarded"
        os.environ[UNGUARDED_MARK] = str(mark)
        try:
            yield
        except Exception:
            if mark.exists():
                raise ConfigError(_unguarded()) from None
            raise
        finally:
            if before is None:
                os.environ.pop(UNGUARDED_MARK, None)
            else:
                os.environ[UNGUARDED_MARK] = before


def _unguarded() -> str:
    main = getattr(sys.modules.get("__main__"), "__file__", None) or getattr(
        sys.modules.get("__mp_main__"), "__file__", None
    )
    name = Path(main).name if main else "the program"
    return (
        f"worker processes import {name} again, and it starts a run there too; "
        'put what starts a run below `if __name__ == "__main__":`'
    )


@contextmanager
def dask_settings() -> Iterator[None]:
    """Have Dask use `SETTINGS` in this process until the last of several overlapping scopes ends.

    Dask reads some of them whenever a worker is lost, so they must last as long as the cluster does.
    """
    import dask

    global _holders, _scope
    with _lock:
        _holders += 1
        if _holders == 1:
            variables = ("PYTHONHASHSEED", *dask.config.get("distributed.nanny.pre-spawn-environ", {}))
            _environment.update({name: os.environ.get(name) for name in variables})
            defaults = dask.config.merge(*dask.config.defaults)
            untouched = {
                name: value
                for name, value in SETTINGS.items()
                if dask.config.get(name, None) == dask.config.get(name, None, config=defaults)
            }
            _scope = dask.config.set(untouched)
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if _holders == 0 and _scope is not None:
                _scope.__exit__(None, None, None)
                _scope = None
                _restore_environment()


def _restore_environment() -> None:
    for name, value in _environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _environment.clear()


def configure_command_line() -> None:
    """Set up the process of a command, which is ours: keep memory steady, and mute libraries' tracebacks."""
    global _is_command_line
    _is_command_line = True
    keep_memory_steady()
    mute_libraries()


def mute_dask_if_ours() -> None:
    """Mute Dask in the command line's process, once Dask is imported: its import sets the levels of its loggers."""
    if _is_command_line:
        mute_libraries()


def mute_libraries() -> None:
    """Set the loggers of `distributed`, `tifffile` and `asyncio` to CRITICAL in this process.

    Dask logs screens of tracebacks for a lost worker, and tifffile logs what it also raises; both are reported in our
    own words. Dask drops some of its futures when it ends, on a slow machine with an error that asyncio then logs.
    """
    for name in (*MUTED, *logging.root.manager.loggerDict):
        if name.partition(".")[0] in MUTED:
            logging.getLogger(name).setLevel(logging.CRITICAL)


def dask_setup(worker: Any) -> None:
    """Set up a worker process: memory kept steady, no tracebacks on the run's terminal, and signals.

    Ctrl-C, which a terminal sends to every process, is left to the run: it stops its workers itself. SIGTERM, which
    batch systems send before they kill a job, lets the worker hand its tiles back to the scheduler, which then blames
    none of them for its end. Where the job continues, its nanny starts another worker.
    """
    import asyncio  # half of the time of `wsi-magnet run --help`

    keep_memory_steady()
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    if SHARES_STDERR.keys() & os.environ.keys():
        mute_libraries()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loop = asyncio.get_running_loop()
    leaving: set[asyncio.Task[None]] = set()

    async def leave() -> None:
        with suppress(OSError):  # the scheduler, or the nanny, was quicker
            await worker.close_gracefully(restart=True, reason="SIGTERM")

    loop.add_signal_handler(signal.SIGTERM, lambda: leaving.add(loop.create_task(leave())))
