"""`wsi-magnet cluster`: the script on stdout, the plan on stderr, and nothing submitted; `run --cluster`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import Call, one_line
from tests.runs import MadeRun, labels_of, run_serially


def test_a_job_script_and_its_plan(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "cluster.yaml"
    path.write_text('kind: slurm\nadapt: {maximum: 9}\noptions: {cores: 4, memory: 8GB, walltime: "02:00:00"}\n')
    result = call("cluster", path)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("#!/usr/bin/env bash\n\n#SBATCH -J wsi-magnet\n")
    assert result.stderr.splitlines() == [
        "jobs of slurm: 1 at first, then 0 to 9 as there is work",
        "each: 1 worker process with 4 threads, 8GB, walltime 02:00:00, of which 110 to 115 minutes are used",
        f"output of the jobs: {tmp_path}/wsi-magnet-logs",
        "the first worker may take 60 minutes",
    ]
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_meant(call: Call, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("kind: slurm\nworkers: 1\n")
    assert "options: cores of one job is missing" in one_line(call("cluster", tmp_path / "c.yaml"))
    assert "cannot be read" in one_line(call("cluster", tmp_path / "d.yaml"))


@pytest.mark.slow
def test_a_run_with_workers_of_its_own(call: Call, made_run: MadeRun, tmp_path: Path) -> None:
    path = tmp_path / "local.yaml"
    path.write_text("kind: local\nworkers: 2\noptions: {threads_per_worker: 1}\n")
    result = call("run", made_run.slide, "-o", tmp_path, "--bundle", made_run.bundle, "--cluster", path)
    assert result.exit_code == 0, result.output
    assert "of 2 workers of local.yaml (local)" in result.stderr
    serial = run_serially(made_run, tmp_path / "serial")
    assert (labels_of(tmp_path / made_run.slide.stem) == labels_of(serial.folder)).all()


@pytest.mark.parametrize("other", [["--workers", "2"], ["--scheduler", "tcp://localhost:1"]])
def test_one_of_three(call: Call, made_run: MadeRun, tmp_path: Path, other: list[str]) -> None:
    result = call("run", made_run.slide, "-o", tmp_path, "--cluster", "c.yaml", *other)
    assert result.exit_code == 2
    assert "pass one of them" in result.stderr
