"""The caller's process is the same after `segment_slide` as before: loggers, Dask's settings, signals and all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.runs import MadeRun
from wsi_magnet.config import RunConfig
from wsi_magnet.results.events import TileFinished
from wsi_magnet.runtime.serial import SerialExecutor
from wsi_magnet.segment.slide import segment_slide

SCRIPT = """
import json, logging, os, signal, sys, warnings

# Imported by the caller first: what the import of a library changes is the library's.
import bokeh.plotting, dask, distributed, matplotlib, scipy.special, tifffile, torch, zarr

class Mallopt:
    def __getattr__(self, name):
        assert name != "mallopt", "the caller's memory allocator was set up"
        return getattr(real(None), name)

import ctypes
real = ctypes.CDLL
ctypes.CDLL = lambda name, *rest, **more: Mallopt() if name is None else real(name, *rest, **more)

def state():
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client", "tifffile", "bokeh", "dask")]
    return {
        "levels": [(one.name, one.level, one.disabled, len(one.filters)) for one in [logging.root, *loggers]],
        "handlers": [[handler.level for handler in one.handlers] for one in [logging.root, *loggers]],
        "dask": dask.config.config,
        "defaults": len(dask.config.defaults),
        "signals": [str(signal.getsignal(number)) for number in signal.valid_signals()],
        "mask": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))),
        # Dask's nannies put their own process's number there for every worker they start.
        "environment": {name: value for name, value in os.environ.items() if name != "__DASK_PARENT_PID"},
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "gradients": torch.is_grad_enabled(),
        "random": torch.initial_seed(),
        "backend": matplotlib.get_backend(auto_select=False),
        "warnings": list(map(str, warnings.filters)),
        "hooks": [str(sys.excepthook), str(sys.displayhook)],
    }

def told():
    return json.loads(json.dumps(state(), default=str))

if __name__ == "__main__":
    before = told()
    import wsi_magnet
    from wsi_magnet import Execution, RunConfig, segment_slide
    workers = json.loads(sys.argv[4])
    config = RunConfig(tissue=False)
    segment_slide(sys.argv[1], sys.argv[2], bundle=sys.argv[3], config=config, execution=Execution("cpu", workers))
    after = told()
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert not changed, changed
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["null", "1"])
def test_the_callers_process_is_left_as_it_was(made_run: MadeRun, tmp_path: object, workers: str) -> None:
    script = f"{tmp_path}/caller.py"
    with open(script, "w") as file:
        file.write(SCRIPT)
    command = [sys.executable, script, str(made_run.slide), f"{tmp_path}/out", str(made_run.bundle), workers]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


class Counting(SerialExecutor):
    """Counts the maps that are open."""

    open = 0

    def map(self, *given: Any, **options: Any) -> Any:
        """As any."""
        self.open += 1
        try:
            yield from super().map(*given, **options)
        finally:
            self.open -= 1


def test_an_error_leaves_no_map_open(made_run: MadeRun, tmp_path: Path) -> None:
    """Its traceback, which is kept, would keep the tiles alive that the map has submitted."""
    executor = Counting()

    def fail(event: object) -> None:
        if isinstance(event, TileFinished):
            raise RuntimeError("the observer failed")

    with pytest.raises(RuntimeError, match="the observer failed") as kept:
        segment_slide(
            made_run.slide,
            tmp_path,
            bundle=made_run.bundle,
            config=RunConfig(tissue=False),
            execution=executor,
            observe=fail,
        )
    assert kept.tb is not None
    assert executor.open == 0
