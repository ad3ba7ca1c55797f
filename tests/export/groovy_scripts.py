"""Scripts for QuPath, run by Groovy with stand-ins for QuPath's functions, where Java and Groovy are at hand."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

STAND_INS = Path(__file__).with_name("stand_ins.groovy")
JARS = "WSI_MAGNET_GROOVY"
"""Environment variable: a folder with the jars of Groovy 4 (groovy, groovy-json)."""

FUNCTIONS = {
    *("getCurrentServer", "getProject", "getProjectEntry", "getCurrentHierarchy", "getAllObjects", "removeObjects"),
    *("addObjects", "setPixelSizeMicrons", "fireHierarchyUpdate", "exportObjectsToGeoJson", "println"),
}
"""Functions of scripts that QuPath 0.5, 0.6 and 0.7 have without an import, all of which the stand-ins have too."""

CLASSES = {"qupath.lib.io.PathIO", "qupath.lib.io.GsonTools", "qupath.lib.projects.Projects"}
"""Classes of QuPath 0.5, 0.6 and 0.7 that scripts name."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Effects of a script."""

    objects: list[list[str]]
    """Id and class of each object of the image."""
    pixel: list[float] | None
    """The pixel size that it set, x and y in microns."""
    failure: str | None
    printed: list[str]


@cache
def java_command() -> list[str] | None:
    """The command that runs a Groovy file, or None."""
    java, jars = shutil.which("java"), os.environ.get(JARS)
    return [java, "-cp", f"{jars}/*", "groovy.ui.GroovyMain"] if java and jars else None


def run_script(script: Path, state: dict[str, Any]) -> Outcome:
    """Run a script; skips the test where Java or Groovy is missing."""
    command = java_command()
    if command is None:
        pytest.skip(f"no Java, or {JARS} names no folder with Groovy's jars")
    whole = {"image": None, "project": None, "objects": [], "open": None, "unsaved": [], **state}
    path = script.with_suffix(".state")
    path.write_text(json.dumps(whole))
    done = subprocess.run(
        [*command, str(STAND_INS), str(script), str(path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))
