"""Packages against bounds: what is required here, what only an extra asks for, and what is out of bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from packaging.specifiers import SpecifierSet

from tests.doctor.facts_made import SOFTWARE, only, worst
from wsi_magnet.doctor.facts import Package
from wsi_magnet.doctor.software import fit_of, gather_software, sorted_out, versions_here
from wsi_magnet.doctor.software_verdicts import software


@pytest.mark.parametrize(
    ("version", "fit"),
    [("2.6", "fits"), ("2.13.0+cpu", "fits"), ("3.0.0rc1", "newer"), ("2.5.9", "older"), ("3.1", "newer")],
)
def test_fits(version: str, fit: str) -> None:
    assert fit_of(version, SpecifierSet(">=2.6,<3")) == fit


def test_what_cannot_be_compared() -> None:
    assert fit_of(None, SpecifierSet(">=1")) == "missing"
    assert fit_of("built by hand", SpecifierSet(">=1")) == "fits"


def test_requirements_are_sorted_by_extra() -> None:
    required, extras = sorted_out(
        [
            "torch>=2.6",
            'winlib>=1; sys_platform == "win32"',
            'SimpleITK>=2; extra == "staple"',
            'SimpleITK>=2; extra == "test"',
            'cupy>=1; (python_version >= "3.8") and extra == "cuda"',
        ]
    )
    assert [r.name for r in required] == ["torch"]
    assert {name: [r.name for r in ones] for name, ones in extras.items()} == {
        "staple": ["SimpleITK"],
        "cuda": ["cupy"],
    }


def test_this_environment_is_told_as_it_is() -> None:
    found = gather_software()
    assert found.metadata == found.version
    assert {"torch", "zarr"} <= {p.name for p in found.packages}
    assert all(p.fit == "fits" for p in found.packages)
    assert "test" not in found.extras
    assert versions_here()["wsi-magnet"] == found.version


def test_what_is_as_it_should_be() -> None:
    assert {line.state for line in software(SOFTWARE)} == {"ok"}


def test_python_that_is_too_old() -> None:
    assert ">=3.11" in worst(software(replace(SOFTWARE, python="3.10", python_fits=False)), "PROBLEM").cure


def test_packages_out_of_bounds_have_a_command() -> None:
    packages = (Package("torch", None, ">=2.6,<3", "missing"), Package("dask", "2024.1", ">=2025.1", "older"))
    line = worst(software(replace(SOFTWARE, packages=packages)), "PROBLEM")
    assert line.cure == "pip install 'torch>=2.6,<3' 'dask>=2025.1'"
    assert line.text == "torch is missing, dask 2024.1 is older than >=2025.1"
    newer = (Package("torch", "3.1", ">=2.6,<3", "newer"),)
    assert worst(software(replace(SOFTWARE, packages=newer)), "warning").cure == "pip install 'torch>=2.6,<3'"


def test_source_that_was_never_installed_and_another_version_than_installed() -> None:
    assert "pip install -e ." in worst(software(replace(SOFTWARE, metadata=None)), "warning").cure
    assert "0.9" in worst(software(replace(SOFTWARE, metadata="0.9")), "warning").text


def test_extras() -> None:
    absent = {"jobqueue": (Package("dask-jobqueue", None, ">=0.9,<1", "missing"),)}
    lines = [line for line in software(replace(SOFTWARE, extras=absent)) if line.subject.startswith("extra")]
    assert "pip install '.[jobqueue]'" in only(lines, "ok").text
    old = {"jobqueue": (Package("dask-jobqueue", "0.8", ">=0.9,<1", "older"),)}
    assert worst(software(replace(SOFTWARE, extras=old)), "warning").subject == "extra jobqueue"
