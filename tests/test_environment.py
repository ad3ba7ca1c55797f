"""The same bounds in three files: setup.cfg says them, environment.yml repeats them, constraints.txt keeps to them."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import wsi_magnet

ROOT = Path(__file__).resolve().parent.parent

CONDA_NAMES = {"dask": "dask-core", "matplotlib": "matplotlib-base", "openslide-bin": "openslide", "torch": "pytorch"}
"""Packages whose name on conda-forge differs: there OpenSlide's library is a package of its own, no wheel."""

ONLY_CONDA = {"python", "pip"}
"""What an environment needs and a package cannot ask for; `python` has a test of its own."""

Bounds = dict[str, SpecifierSet]


def setup_config() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def parse(lines: list[str]) -> Bounds:
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(r.name): r.specifier for r in requirements}


def setup_bounds() -> Bounds:
    config = setup_config()
    texts = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    return parse([line.strip() for text in texts for line in text.splitlines()])


def conda_bounds() -> Bounds:
    return parse(yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"])


def pinned() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_the_environment_names_what_the_package_needs_and_nothing_else() -> None:
    expected = {CONDA_NAMES.get(name, name) for name in setup_bounds()}
    assert set(conda_bounds()) - ONLY_CONDA == expected


@pytest.mark.parametrize("name", sorted(setup_bounds()))
def test_the_environment_has_the_same_bounds(name: str) -> None:
    assert conda_bounds()[CONDA_NAMES.get(name, name)] == setup_bounds()[name]


@pytest.mark.parametrize("name", sorted(setup_bounds()))
def test_every_dependency_is_bounded_on_both_sides_and_pinned_within(name: str) -> None:
    bounds = setup_bounds()[name]
    assert {s.operator for s in bounds} == {">=", "<"}
    assert pinned()[name] in bounds


def test_python_is_the_same_everywhere() -> None:
    lowest = setup_config()["options"]["python_requires"]
    assert lowest == ">=3.11"
    assert {*conda_bounds()["python"]} == {*SpecifierSet(f"{lowest},<3.13")}


def test_the_version_of_the_citation_and_the_changelog() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [heading for heading in headings if heading != "Unreleased"]
    assert cited == wsi_magnet.__version__
    assert released == [] or released[0] == wsi_magnet.__version__
