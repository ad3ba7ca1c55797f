"""Checks of Python and of the installed packages against the bounds in this package's own metadata."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution, distributions, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from wsi_magnet._version import __version__
from wsi_magnet.doctor.check import CheckResult, note, ok, problem, warning

NAME = "wsi-magnet"

FOR_DEVELOPERS = {"test", "dev"}
"""Extras that no user needs."""

OPTIONAL = {"openslide-bin"}
"""Packages of libraries that conda and Linux distributions install by other names; the check of OpenSlide finds out
whether the library is there."""

SHOWN = ("torch", "dask", "zarr", "numpy")
"""Packages whose versions are always shown."""

SHARED = (
    *(NAME, "torch", "numpy", "zarr", "numcodecs", "dask", "distributed"),
    *("msgpack", "cloudpickle", "toolz", "tornado", "openslide-python"),
)
"""Packages that client and workers should have in the same version: they compute, write, or carry Dask's messages."""


def check_software() -> Iterator[CheckResult]:
    """Check Python and the required packages."""
    try:
        installed = distribution(NAME)
    except PackageNotFoundError:
        yield ok("Python", f"{platform.python_version()}, with {NAME} {__version__}")
        text = f"{NAME} {__version__} runs from its source; without metadata, its requirements cannot be checked"
        yield warning("packages", text, "run `pip install -e .` in its folder")
        return
    yield _python(",".join(installed.metadata.get_all("Requires-Python") or []))
    if installed.version != __version__:
        text = f"{__version__} runs, but {installed.version} is installed"
        yield warning(NAME, text, f"install it again, and remove folders of another {NAME} from PYTHONPATH")
    yield from _required(sort_requirements(installed.requires or [])[0])


def check_extras() -> Iterator[CheckResult]:
    """Check the extras for users: a warning for each that does not fit, and one line for all others."""
    try:
        extras = sort_requirements(distribution(NAME).requires or [])[1]
    except PackageNotFoundError:
        return  # as `check_software` says
    yield from _extras(extras)


def shared_versions() -> dict[str, str]:
    """Versions of Python and of the `SHARED` packages, by name."""
    found = {name: installed_version(name) or "not installed" for name in SHARED}
    return {"python": platform.python_version(), **found, NAME: __version__}


def installed_version(name: str) -> str | None:
    """Version of an installed package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def sort_requirements(requires: Iterable[str]) -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """The requirements that hold on this machine: those of every installation, and those of each extra for users."""
    required: list[Requirement] = []
    extras: dict[str, list[Requirement]] = defaultdict(list)
    for one in map(Requirement, requires):
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            required.append(one)
            continue
        words = str(one.marker).replace("(", " ").replace(")", " ").split()
        named = {words[i + 2].strip("\"'") for i, word in enumerate(words[:-2]) if word == "extra"}
        for name in named - FOR_DEVELOPERS:
            if one.marker.evaluate({"extra": name}):
                extras[name].append(one)
    return required, extras


def misfit(one: Requirement) -> str:
    """Violation of the bounds by the installed package: "missing", "older", "newer", or "" for none."""
    found = installed_version(one.name)
    if found is None:
        return "" if one.name in OPTIONAL else "missing"
    try:
        parsed = Version(found)
    except InvalidVersion:  # a build by hand
        return ""
    if one.specifier.contains(parsed, prereleases=True):
        return ""
    lower = SpecifierSet(",".join(str(s) for s in one.specifier if s.operator in (">=", ">", "==", "~=")))
    return "newer" if lower.contains(parsed, prereleases=True) else "older"


def _python(bounds: str) -> CheckResult:
    found = platform.python_version()
    text = f"{found}, with {NAME} {__version__}"
    if SpecifierSet(bounds).contains(found, prereleases=True):
        return ok("Python", text)
    return problem("Python", f"{text}, which needs Python {bounds}", f"install it in an environment of Python {bounds}")


def _required(requirements: list[Requirement]) -> Iterator[CheckResult]:
    bad = [one for one in requirements if misfit(one) in ("missing", "older")]
    newer = [one for one in requirements if misfit(one) == "newer"]
    twice = {one.name: found for one in requirements if len(found := _copies(one.name)) > 1}
    if bad:
        yield problem("packages", ", ".join(map(_described, bad)), _install(bad))
    if newer:
        yield warning("packages", f"not tested: {', '.join(map(_described, newer))}", _install(newer))
    for name, copies in twice.items():
        text = f"{name} is installed {len(copies)} times ({', '.join(copies)})"
        yield warning("packages", text, f"run `pip uninstall {name}` until it is gone, then install it once")
    if not (bad or newer or twice):
        shown = ", ".join(f"{name} {installed_version(name)}" for name in SHOWN)
        yield ok("packages", f"all {len(requirements)} within their bounds ({shown})")


def _copies(name: str) -> list[str]:
    """Different versions of a package that lie on Python's path."""
    return sorted({one.version for one in distributions(name=name)})


def _extras(extras: Mapping[str, list[Requirement]]) -> Iterator[CheckResult]:
    there, missing = [], []
    for name, requirements in sorted(extras.items()):
        bad = [one for one in requirements if misfit(one)]
        if not bad:
            there.append(name)
        elif all(misfit(one) == "missing" for one in requirements):
            missing.append(name)
        else:
            yield warning("extras", ", ".join(map(_described, bad)), f"run {_install_extra(name)}")
    texts = [f"{', '.join(there)} installed"] if there else []
    if missing:
        texts.append(f"{', '.join(missing)} not installed; to add one: {_install_extra('NAME')}")
    if texts:
        yield note("extras", "; ".join(texts))


def _install_extra(name: str) -> str:
    return f"`pip install '.[{name}]'` in {NAME}'s checkout"


def _described(one: Requirement) -> str:
    found, how = installed_version(one.name), misfit(one)
    return f"{one.name} is missing" if found is None else f"{one.name} {found} is {how} than {one.specifier}"


def _install(requirements: list[Requirement]) -> str:
    return "pip install " + " ".join(f"'{one.name}{one.specifier}'" for one in requirements)
