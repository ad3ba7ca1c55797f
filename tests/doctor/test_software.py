"""Installed packages against bounds, with faked versions."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement

from wsi_magnet._version import __version__
from wsi_magnet.doctor import software
from wsi_magnet.doctor.check import CheckResult
from wsi_magnet.doctor.software import check_software, misfit, shared_versions, sort_requirements


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    monkeypatch.setattr(software, "installed_version", versions.get)
    monkeypatch.setattr(software, "_copies", lambda name: ["1.0", "2.0"] if name == "twice" else ["1.0"])


def required(*texts: str) -> list[CheckResult]:
    return list(software._required([Requirement(text) for text in texts]))


@pytest.mark.parametrize(
    ("version", "how"),
    [
        ("2.6", ""),
        ("2.13.0+cpu", ""),
        ("3.0.0rc1", "newer"),
        ("2.5.9", "older"),
        ("3.1", "newer"),
        ("by hand", ""),
        (None, "missing"),
    ],
)
def test_misfit(monkeypatch: pytest.MonkeyPatch, version: str | None, how: str) -> None:
    monkeypatch.setattr(software, "installed_version", lambda name: version)
    assert misfit(Requirement("torch>=2.6,<3")) == how
    assert misfit(Requirement("openslide-bin>=2.6,<3")) == how.replace("missing", "")


def test_requirements_are_sorted_by_extra() -> None:
    found, extras = sort_requirements(
        [
            "torch>=2.6",
            'winlib>=1; sys_platform == "win32"',
            'SimpleITK>=2; extra == "staple"',
            'SimpleITK>=2; extra == "test"',
            'cupy>=1; (python_version >= "3.8") and extra == "cuda"',
        ]
    )
    assert [one.name for one in found] == ["torch"]
    assert {name: [one.name for one in ones] for name, ones in extras.items()} == {
        "staple": ["SimpleITK"],
        "cuda": ["cupy"],
    }


def test_this_environment_has_no_problem() -> None:
    assert not [one for one in check_software() if one.status == "problem"]
    assert shared_versions()["wsi-magnet"] == __version__


def test_missing_and_old_packages_have_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, dask="2024.1")
    (found,) = required("torch>=2.6", "dask>=2025.1")
    assert (found.status, found.text) == ("problem", "torch is missing, dask 2024.1 is older than >=2025.1")
    assert found.remedy == "pip install 'torch>=2.6' 'dask>=2025.1'"


def test_newer_and_duplicated_packages_are_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, torch="3.1", twice="1.0")
    newer, twice = required("torch>=2.6,<3", "twice>=1")
    assert (newer.status, twice.status) == ("warning", "warning")
    assert "twice is installed 2 times (1.0, 2.0)" in twice.text
    assert "pip uninstall twice" in twice.remedy


def test_python_and_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    found = software._python(">=4")
    assert (found.status, "Python >=4" in found.remedy) == ("problem", True)
    monkeypatch.setattr(software, "__version__", "9.9")
    assert "9.9 runs, but" in next(one.text for one in check_software() if one.subject == "wsi-magnet")
    monkeypatch.setattr(software, "NAME", "no-such-distribution")
    assert [one.status for one in check_software()] == ["ok", "warning"]


def test_extras_take_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    extras = {"jobqueue": [Requirement("dask-jobqueue>=0.9,<1")], "s3": [Requirement("s3fs>=2024")]}
    installed(monkeypatch)
    [found] = software._extras(extras)
    assert (found.status, found.text.split(";")[0]) == ("note", "jobqueue, s3 not installed")
    installed(monkeypatch, **{"dask-jobqueue": "0.8"})
    bad, rest = software._extras(extras)
    assert (bad.status, "pip install '.[jobqueue]'" in bad.remedy) == ("warning", True)
    assert "s3 not installed" in rest.text
    installed(monkeypatch, **{"dask-jobqueue": "0.9"})
    [found] = software._extras(extras)
    assert found.text.startswith("jobqueue installed; s3 not installed")
