"""The command line answers at once: help imports little, and nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = {"bokeh", "dask", "distributed", "numcodecs", "openslide", "scipy", "skimage", "tifffile", "torch", "zarr"}
"""Each takes a tenth of a second or more to import, torch and distributed well over a second."""

MODULES_AFTER_HELP = """
import json, runpy, sys
sys.argv = ["wsi-magnet", *sys.argv[1:]]
try:
    runpy.run_module("wsi_magnet", run_name="__main__")
except SystemExit as ending:
    assert not ending.code, ending.code
print("\\n" + json.dumps(sorted(sys.modules)))
"""


def modules_after(*arguments: str) -> set[str]:
    command = [sys.executable, "-c", MODULES_AFTER_HELP, *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return set(json.loads(output.splitlines()[-1]))


def test_help_imports_nothing_heavy() -> None:
    assert modules_after("--help").isdisjoint(HEAVY)


def test_help_of_a_command_imports_nothing_heavy() -> None:
    assert modules_after("run", "--help").isdisjoint(HEAVY | {"asyncio"})


def test_run_names_slide_and_bundle_before_the_imports_that_take_long() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "wsi_magnet", "run", "missing.svs", "-o", "out"]
    lines = subprocess.run(command, check=False, capture_output=True, text=True).stderr.splitlines()
    opening = next(i for i, line in enumerate(lines) if line.startswith("Opening missing.svs with bundle "))
    names = [line.rpartition("|")[2].strip().partition(".")[0] for line in lines[:opening]]
    assert HEAVY.isdisjoint(names)
    assert lines[opening].endswith("µm/px), made for trying wsi-magnet out on H&E prostate slides")
    assert any("no such file" in line for line in lines[opening:])


def test_help_imports_little() -> None:
    assert len(modules_after("--help")) < 300, "Python itself starts with 70, and torch adds 1500"


def test_the_package_imports_nothing_heavy_and_names_what_it_offers() -> None:
    code = "import sys, wsi_magnet; print(*sys.modules); print(*dir(wsi_magnet))"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    loaded, offered = (set(line.split()) for line in output.splitlines())
    assert loaded.isdisjoint(HEAVY | {"numpy"})
    assert offered >= {"load_bundle", "open_slide", "segment_image", "segment_slide"}
