"""A slide that crashes its reader takes a worker process with it, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cohort.made import write_slide
from wsi_magnet.cohort.state import States

COMES_FIRST = """
import importlib.abc, importlib.machinery, os, sys

class Crashing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "wsi_magnet.slides.image":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module
        def run_and_change(module):
            run(module)
            opened = module.open_image
            module.open_image = lambda path: os.abort() if "crash" in path.name else opened(path)
        spec.loader.exec_module = run_and_change
        return spec

sys.meta_path.insert(0, Crashing())
"""
"""In every process: the reader of plain images aborts, as a library's bug would have it."""


@pytest.mark.slow
def test_a_slide_that_crashes_its_reader_is_one_that_failed(tmp_path: Path, free_bundle: Path) -> None:
    first = tmp_path / "first"
    first.mkdir()
    (first / "sitecustomize.py").write_text(COMES_FIRST)
    slides, out = tmp_path / "slides", tmp_path / "out"
    for name in ("a", "d"):
        write_slide(slides / f"{name}.tif", ord(name) % 3)
    shutil.copy(free_bundle, slides / "crash.svs")  # no slide, so that this reader is asked
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(first), str(root)])
    command = [sys.executable, "-m", "wsi_magnet", "batch", str(slides), "-o", str(out), "--bundle", str(free_bundle)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, check=False, timeout=300
    )
    assert done.returncode == 1, done.stderr
    states = States(out).read()
    assert {name: state.state for name, state in states.items()} == {
        "a": "finished",
        "crash": "failed",
        "d": "finished",
    }
    assert "cannot be opened as a slide: no worker survived it" in (states["crash"].error or "")
    assert "Traceback" not in done.stderr
