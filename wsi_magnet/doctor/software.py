"""Python and packages, held against what this package's own metadata asks for."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, distribution, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from wsi_magnet._version import __version__
from wsi_magnet.doctor.facts import Fit, Package, Software

DISTRIBUTION = "wsi-magnet"

NOT_FOR_USERS = {"test", "dev"}
"""Extras that are for those who change this program."""

ELSEWHERE = {"openslide-bin"}
"""Packages that bring a library which conda and Linux distributions bring otherwise: whether it is there is seen when
it is used."""

COMPARED = (
    "wsi-magnet",
    "torch",
    "numpy",
    "zarr",
    "numcodecs",
    "dask",
    "distributed",
    "msgpack",
    "cloudpickle",
    "toolz",
    "tornado",
    "openslide-python",
)
"""Packages of which client and workers should have the same: those that compute or write a mask, and those by which
Dask talks."""


def gather_software() -> Software:
    """Of this Python."""
    python = platform.python_version()
    try:
        installed = distribution(DISTRIBUTION)
    except PackageNotFoundError:
        return Software(python, "", True, __version__, None)
    wanted = ",".join(installed.metadata.get_all("Requires-Python") or [])
    required, extras = sorted_out(installed.requires or [])
    return Software(
        python,
        wanted,
        python in SpecifierSet(wanted, prereleases=True),
        __version__,
        installed.version,
        tuple(_package(one) for one in required),
        {name: tuple(_package(one) for one in ones) for name, ones in extras.items()},
    )


def sorted_out(requires: Iterable[str]) -> tuple[list[Requirement], Mapping[str, list[Requirement]]]:
    """What is required in any case here, and for each extra that is for users."""
    required: list[Requirement] = []
    extras: dict[str, list[Requirement]] = defaultdict(list)
    for one in map(Requirement, requires):
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            required.append(one)
            continue
        for name in _extras_of(one):
            if one.marker.evaluate({"extra": name}):
                extras[name].append(one)
    return required, extras


def versions_here() -> dict[str, str]:
    """Of what client and workers must have in common."""
    found = {"python": platform.python_version()}
    for name in COMPARED:
        found[name] = __version__ if name == DISTRIBUTION else installed_version(name) or "not installed"
    return found


def installed_version(name: str) -> str | None:
    """By the package's metadata; None where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def fit_of(found: str | None, bounds: SpecifierSet) -> Fit:
    """How a version lies to bounds."""
    if found is None:
        return "missing"
    try:
        parsed = Version(found)
    except InvalidVersion:
        return "fits"  # somebody's own build, of which nothing can be said
    if bounds.contains(parsed, prereleases=True):
        return "fits"
    lower = SpecifierSet(",".join(str(s) for s in bounds if s.operator in (">=", ">", "==", "~=")))
    return "newer" if lower.contains(parsed, prereleases=True) else "older"


def _extras_of(one: Requirement) -> list[str]:
    """Names in a marker as `extra == "staple"`."""
    words = str(one.marker).replace("(", " ").replace(")", " ").split()
    named = [words[i + 2].strip("\"'") for i, word in enumerate(words[:-2]) if word == "extra"]
    return [name for name in named if name not in NOT_FOR_USERS]


def _package(one: Requirement) -> Package:
    found = installed_version(one.name)
    fit = fit_of(found, one.specifier)
    return Package(one.name, found, str(one.specifier), "fits" if one.name in ELSEWHERE and found is None else fit)
