"""Verdicts on Python and packages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from wsi_magnet.doctor.facts import Package, Software
from wsi_magnet.doctor.lines import Line, ok, problem, warning

TOLD = ("torch", "dask", "zarr", "numpy")
"""Packages whose version is told in any case."""


def software(found: Software) -> Iterator[Line]:
    """Whether all that is needed is there, and in versions that are known to do."""
    yield from _python(found)
    if found.metadata is None:
        yield warning(
            "packages",
            f"wsi-magnet {found.version} runs from its source and is not installed, so that nothing says what it needs",
            "pip install -e . in its folder",
        )
        return
    if found.metadata != found.version:
        yield warning(
            "wsi-magnet",
            f"this is {found.version}, and {found.metadata} is what is installed",
            "install it again, and see that no folder of the other one is on PYTHONPATH",
        )
    yield from _packages(found.packages)
    for name, packages in sorted(found.extras.items()):
        yield from _extra(name, packages)


def _python(found: Software) -> Iterator[Line]:
    text = f"{found.python}, with wsi-magnet {found.version}"
    if found.python_fits:
        yield ok("Python", text)
    else:
        cure = f"make an environment with Python {found.python_wanted} and install wsi-magnet there"
        yield problem("Python", f"{text}, which needs {found.python_wanted}", cure)


def _packages(packages: Sequence[Package]) -> Iterator[Line]:
    bad = [p for p in packages if p.fit in ("missing", "older")]
    newer = [p for p in packages if p.fit == "newer"]
    if bad:
        yield problem("packages", ", ".join(map(_said, bad)), _install(bad))
    if newer:
        yield warning("packages", f"not known to do: {', '.join(map(_said, newer))}", _install(newer))
    if not bad and not newer:
        told = ", ".join(f"{p.name} {p.version}" for p in packages if p.name in TOLD)
        yield ok("packages", f"all {len(packages)} are there, within their bounds ({told})")


def _extra(name: str, packages: Sequence[Package]) -> Iterator[Line]:
    subject, missing = f"extra {name}", [p for p in packages if p.fit == "missing"]
    unfit = [p for p in packages if p.fit in ("older", "newer")]
    cure = f"pip install '.[{name}]' in wsi-magnet's checkout"
    if len(missing) == len(packages):
        yield ok(subject, f"not installed; {cure} where it is wanted")
    elif missing or unfit:
        yield warning(subject, ", ".join(map(_said, [*missing, *unfit])), cure)
    else:
        yield ok(subject, ", ".join(f"{p.name} {p.version}" for p in packages))


def _said(one: Package) -> str:
    if one.version is None:
        return f"{one.name} is missing"
    return f"{one.name} {one.version} is {one.fit} than {one.wanted}"


def _install(packages: Sequence[Package]) -> str:
    wanted = " ".join(f"'{p.name}{p.wanted}'" for p in packages)
    return f"pip install {wanted}"
