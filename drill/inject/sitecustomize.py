"""Changes in every process of a drill, by PYTHONPATH: slower tiles, a tile that kills, a shorter wait for schedulers.

WSI_MAGNET_DRILL_NAP_S: seconds by which a tile is slower, half before it is computed and half after it is written, so
that faults also meet tiles that are written but not reported. WSI_MAGNET_DRILL_POISON: "scale,row,column" of the
tile that kills its process. WSI_MAGNET_DRILL_RETURN_S: seconds of waiting for a lost scheduler.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def change_tasks(module: ModuleType) -> None:
    """Slow its RunTile down, or make it kill the process, as the environment asks."""
    nap_s = float(os.environ.get("WSI_MAGNET_DRILL_NAP_S", 0))
    poison = tuple(int(part) for part in os.environ.get("WSI_MAGNET_DRILL_POISON", "").split(",") if part)
    run = module.RunTile.__call__

    def run_slowly(self: Any, task: Any) -> Any:
        time.sleep(nap_s / 2)
        if task.key == poison:
            os.kill(os.getpid(), signal.SIGKILL)
        result = run(self, task)
        time.sleep(nap_s / 2)
        return result

    module.RunTile.__call__ = run_slowly


def change_connection(module: ModuleType) -> None:
    """Shorten its wait for a lost scheduler."""
    if seconds := os.environ.get("WSI_MAGNET_DRILL_RETURN_S"):
        module.RETURN_S = float(seconds)  # type: ignore[attr-defined]


CHANGES: dict[str, Callable[[ModuleType], None]] = {
    "wsi_magnet.worker.tasks": change_tasks,
    "wsi_magnet.runtime.connection": change_connection,
}


class Finder:
    """Import finder that changes some modules as soon as they are imported."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Spec of a module to change; None for other modules, and during the finder's own search."""
        change = CHANGES.pop(name, None)
        if change is None:
            return None
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def run_and_change(module: ModuleType) -> None:
            run(module)
            change(module)

        spec.loader.exec_module = run_and_change  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Finder())
