"""A network of another package: installed as a user installs it, then trained, run and evaluated."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runs import labels_of
from tests.train.made import tiny_config, write_data
from wsi_magnet.nets.spec import read_spec

ROOT = Path(__file__).resolve().parents[2]
Command = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which pip has installed tests/networks_package."""
    folder = tmp_path_factory.mktemp("installed")
    source = shutil.copytree(ROOT / "tests" / "networks_package", folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(folder / "site"), str(source)], check=True, timeout=120)
    return folder / "site"


def command_in(folder: Path, *paths: Path) -> Command:
    """wsi-magnet in a process of its own, in a folder, with these folders on Python's path."""
    places = os.pathsep.join(map(str, [*paths, ROOT]))
    environment = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "wsi_magnet", *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250)

    return run


def config_of(network: str, **arguments: Any) -> dict[str, Any]:
    """A tiny training, whose crops are as small as they may be."""
    values = tiny_config(cell_px=128, validation_views=1).to_json()
    values["backbone"] |= {"network": network, "network_args": arguments, "steps": 2}
    values["refiners"] |= {"steps": 2}
    return values


@pytest.fixture(scope="module")
def trained(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and tiny.safetensors trained on them."""
    folder = tmp_path_factory.mktemp("trained")
    write_data(folder)
    (folder / "tiny.yaml").write_text(json.dumps(config_of("tiny-unet", width=4)))
    run = command_in(folder, installed)
    done = run("train", "manifest.csv", "--config", "tiny.yaml", "-o", "tiny.safetensors", "--threads", "1")
    assert done.returncode == 0, done.stderr
    return folder


def test_a_bundle_names_the_package(trained: Path) -> None:
    spec, _ = read_spec(trained / "tiny.safetensors")
    assert (spec.network, spec.network_package, spec.network_args) == ("tiny-unet", "tiny-networks 0.1", {"width": 4})
    assert (spec.mean, spec.std) == ((0.7, 0.6, 0.7), (0.2, 0.2, 0.2))
    assert spec.profile is not None
    assert spec.profile.images == 5


def test_it_segments_with_workers_of_its_own_and_is_evaluated(trained: Path, installed: Path) -> None:
    run = command_in(trained, installed)
    options = ("--bundle", "tiny.safetensors", "--mpp", "1", "--no-tissue", "--device", "cpu")
    for out, more in (("one", ["--workers", "1"]), ("two", ["--workers", "2", "--tile", "512"])):
        done = run("run", "image_5.png", "-o", out, *options, *more)
        assert done.returncode == 0, done.stderr
    assert (labels_of(trained / "one" / "image_5") == labels_of(trained / "two" / "image_5")).all()
    done = run(
        "evaluate", "manifest.csv", "--bundle", "tiny.safetensors", "-o", "judged", "--methods", "Patching,MagNet"
    )
    assert done.returncode == 0, done.stderr
    assert "MagNet" in done.stdout


def test_without_the_package_the_error_names_it(trained: Path) -> None:
    run = command_in(trained)
    done = run("run", "image_5.png", "-o", "none", "--bundle", "tiny.safetensors", "--mpp", "1")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "comes from the package tiny-networks 0.1, which is not installed" in last
    assert "Traceback" not in done.stderr
    done = run("train", "manifest.csv", "--config", "tiny.yaml", "-o", "other.safetensors")
    assert done.returncode == 1
    assert "backbone.network 'tiny-unet' is none of fpn, psp" in done.stderr


def test_arguments_are_refused_before_anything_is_trained(trained: Path, installed: Path) -> None:
    (trained / "wrong.yaml").write_text(json.dumps(config_of("tiny-unet", width=0)))
    done = command_in(trained, installed)("train", "manifest.csv", "--config", "wrong.yaml", "-o", "w.safetensors")
    assert done.returncode == 1
    assert "backbone.network_args.width is 0, not a whole number of at least 1" in done.stderr
