"""All checks in order, and their results as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from wsi_magnet.doctor.check import CheckResult, Needs, Request, one_line, problem
from wsi_magnet.doctor.machine import check_machine
from wsi_magnet.doctor.output import check_output, check_temporary
from wsi_magnet.doctor.reading import TRY_DECODERS
from wsi_magnet.doctor.software import check_extras, check_software
from wsi_magnet.runtime.isolation import stream_isolated

READING_S, COMPUTE_S = 120.0, 300.0
"""Longest waits for the next result of an isolated process; from a slow disk, torch alone takes a minute to load."""


def run_checks(request: Request, announce: Callable[[str], object] = lambda what: None) -> Iterator[CheckResult]:
    """The results of all checks, as they come; problems are results, not errors. Nothing stays behind.

    announce: called with the subject of each check before it starts.
    """
    announce("Python and packages")
    yield from check_software()
    needs = Needs()
    announce("readers, bundle and slide" if request.slide is not None else "readers and bundle")
    for found in _isolated("reading", "wsi_magnet.doctor.reading:check_reading", request, READING_S, TRY_DECODERS):
        if isinstance(found, Needs):
            needs = found
        else:
            yield found
    announce("cores, memory and temporary files")
    yield from check_machine(request, needs)
    yield from check_temporary()
    if request.output is not None:
        announce("output folder")
        yield from check_output(request.output, needs.disk_bytes)
    announce("PyTorch and devices")
    for found in _isolated("torch", "wsi_magnet.doctor.compute:check_compute", request, COMPUTE_S):
        if isinstance(found, CheckResult):
            yield found
    if request.remote:
        announce("scheduler and workers")
        from wsi_magnet.doctor.cluster import check_cluster  # loads Dask and torch

        yield from check_cluster(request, needs)
    announce("extras")
    yield from check_extras()


def _isolated(
    subject: str, function: str, request: Request, timeout_s: float, environment: Mapping[str, str] | None = None
) -> Iterator[CheckResult | Needs]:
    """Results of checks in another process; its crash is a problem of the subject."""
    try:
        yield from stream_isolated(function, request, timeout_s=timeout_s, environment=environment)
    except Exception as error:  # a crash, or whatever a broken library raises
        remedy = "install the packages again, in an environment of their own and for this processor (README, Install)"
        yield problem(subject, f"the check failed: {one_line(error)}", remedy)


def to_json(results: Sequence[CheckResult]) -> dict[str, Any]:
    """Plain values: the number of problems and of warnings, and all results."""
    counts = {f"{status}s": sum(one.status == status for one in results) for status in ("problem", "warning")}
    return {**counts, "results": [asdict(one) for one in results]}
