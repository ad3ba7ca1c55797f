"""Comes first in every process of a drill (by PYTHONPATH): tiles take longer, and one may kill whoever takes it.

WSI_MAGNET_DRILL_NAP_S: seconds that a tile takes longer, half before it is computed and half after it is written, so
that a fault meets tiles that are written and not reported as well. WSI_MAGNET_DRILL_POISON: "scale,row,column" of the
tile that kills its process.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

TASKS = "wsi_magnet.tasks"


class Finder:
    """Finds the module of tasks once, as everybody does, and changes it as soon as it is imported."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """None for every other module."""
        if name != TASKS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def run_and_change(module: ModuleType) -> None:
            run(module)
            change(module)

        spec.loader.exec_module = run_and_change  # type: ignore[method-assign]
        return spec


def change(module: ModuleType) -> None:
    """Of its RunTile, what the environment asks for."""
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


sys.meta_path.insert(0, Finder())
