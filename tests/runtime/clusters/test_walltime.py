"""Walltimes in the formats of batch systems."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsi_magnet.errors import ConfigError
from wsi_magnet.runtime.clusters.batch import lifetime_arguments, walltime_s
from wsi_magnet.runtime.clusters.spec import ClusterSpec, Kind


@pytest.mark.parametrize(
    ("kind", "text", "seconds"),
    [
        ("slurm", "30", 1800),
        ("slurm", "30:15", 1815),
        ("slurm", "04:00:00", 14400),
        ("slurm", "1-06", 30 * 3600),
        ("slurm", "1-06:30", 30.5 * 3600),
        ("slurm", "2-00:00:10", 172810),
        ("pbs", "1800", 1800),
        ("pbs", "30:15", 1815),
        ("pbs", "12:00:00", 43200),
        ("sge", "00:30:00", 1800),
        ("lsf", "90", 5400),
        ("lsf", "04:00", 14400),
        ("slurm", "four hours", None),
        ("slurm", "0", None),
        ("slurm", "", None),
    ],
)
def test_seconds(kind: Kind, text: str, seconds: float | None) -> None:
    assert walltime_s(text, kind) == seconds


@pytest.mark.parametrize("walltime", ["00:01:00", "00:30:00", "04:00:00", "7-00:00:00"])
def test_every_worker_has_left_before_its_job_is_killed(walltime: str) -> None:
    words = lifetime_arguments(walltime, spec("slurm"))
    assert words[::2] == ["--lifetime", "--lifetime-stagger"]
    lifetime, stagger = (float(word.removesuffix("s")) for word in words[1::2])
    seconds = walltime_s(walltime, "slurm")
    assert seconds
    margin = min(300, seconds / 5)
    assert seconds - margin - 1 <= lifetime + stagger <= seconds - margin + 1
    assert stagger > 0
    assert lifetime - stagger >= seconds * 0.5


def test_without_a_walltime_workers_stay() -> None:
    assert lifetime_arguments(None, spec("slurm")) == []
    assert lifetime_arguments("01:00:00", spec("htcondor")) == []


def test_a_walltime_that_is_none() -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml: options: walltime 'soon' cannot be read; write for"):
        lifetime_arguments("soon", spec("pbs"))


def spec(kind: Kind) -> ClusterSpec:
    return ClusterSpec(Path("x.yaml"), kind, 1)
