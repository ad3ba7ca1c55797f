"""Walltimes as batch systems spell them, and when a worker should leave so that its job is not killed."""

from __future__ import annotations

import re

from wsi_magnet.errors import ConfigError
from wsi_magnet.runtime.clusters.spec import ClusterSpec

MARGIN_S = 300.0
"""A worker has left so long before its job's walltime is over: starting Python on a busy file system takes its share of
it, and a tile that is under way is finished."""


def lifetime_arguments(walltime: object, spec: ClusterSpec) -> list[str]:
    """Arguments of a Dask worker that make it leave in good time; none where there is no walltime.

    The times are drawn within bounds, so that not all workers leave at once.
    """
    if walltime is None or spec.kind == "htcondor":
        return []
    lifetime, stagger = _lifetime(walltime, spec)
    return ["--lifetime", f"{lifetime:.0f}s", "--lifetime-stagger", f"{stagger:.0f}s"]


def leaves_after(walltime: object, spec: ClusterSpec) -> str:
    """For people: the minutes after which a worker leaves."""
    lifetime, stagger = _lifetime(walltime, spec)
    return f"{(lifetime - stagger) / 60:.0f} to {(lifetime + stagger) / 60:.0f} minutes"


def _lifetime(walltime: object, spec: ClusterSpec) -> tuple[float, float]:
    seconds = walltime_s(str(walltime), spec.kind)
    if seconds is None:
        raise ConfigError(f"{spec.path}: options: walltime {walltime!r} is none, for example 04:00:00")
    margin = min(MARGIN_S, seconds / 5)
    return seconds - 1.5 * margin, margin / 2


def walltime_s(text: str, kind: str) -> float | None:
    """Seconds of a walltime, or None for a text that is none.

    Slurm: MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS, DAYS-HOURS[:MINUTES[:SECONDS]]. LSF: MINUTES or
    HOURS:MINUTES. The others: SECONDS, MINUTES:SECONDS or HOURS:MINUTES:SECONDS.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if not match:
        return None
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None:
        units = [3600, 60, 1]
    elif kind == "lsf":
        units = [[60], [3600, 60], [3600, 60, 1]][len(numbers) - 1]
    elif len(numbers) == 1:
        units = [60 if kind == "slurm" else 1]
    else:
        units = [3600, 60, 1][-len(numbers) :]
    return 86400 * int(days or 0) + sum(number * unit for number, unit in zip(numbers, units, strict=False)) or None
