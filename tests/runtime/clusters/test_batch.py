"""Arguments for dask-jobqueue's own classes, and the scripts that these make."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from wsi_magnet.errors import ClusterError, ConfigError
from wsi_magnet.runtime.clusters.batch import SYSTEMS, batch_cluster, job_options, job_script, job_shape
from wsi_magnet.runtime.clusters.spec import ClusterSpec, parse_cluster
from wsi_magnet.runtime.signals import keep_sigint_handler

JOB = {"cores": 8, "memory": "16GB"}
MORE = {"htcondor": {"disk": "2GB"}, "oar": {"memory_per_core_property_name": "not_applicable"}}
DIRECTIVES = {
    "slurm": ["#SBATCH --cpus-per-task=8", "#SBATCH --mem=15G"],
    "pbs": ["#PBS -l select=1:ncpus=8:mem=15GB"],
    "lsf": ["#BSUB -n 8"],
    "sge": ["#$ -cwd"],
    "htcondor": ["RequestCpus = MY.DaskWorkerCores", "MY.DaskWorkerCores = 8", "Executable = /bin/sh"],
    "oar": ["#OAR -l /nodes=1/core=8"],
    "moab": ["#PBS -l select=1:ncpus=8:mem=15GB"],
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs log below the folder where a run was started."""
    monkeypatch.chdir(tmp_path)


def spec(kind: str = "slurm", gpu: bool = False, **options: Any) -> ClusterSpec:
    values = {"kind": kind, "workers": 2, "gpu": gpu, "options": {**JOB, **MORE.get(kind, {}), **options}}
    return parse_cluster(values, Path("some.yaml"))


def worker_line(script: str) -> str:
    return next(line for line in script.splitlines() if "distributed.cli.dask_worker" in line)


@pytest.mark.parametrize("kind", SYSTEMS)
def test_every_system_has_its_script(kind: str, tmp_path: Path) -> None:
    script = job_script(spec(kind))
    assert set(DIRECTIVES[kind]) <= {line.removesuffix(",walltime=00:30:00") for line in script.splitlines()}
    line = worker_line(script)
    assert f"exec {sys.executable} -m distributed.cli.dask_worker tcp://HOST:PORT" in line
    for words in (
        "--nthreads 8",
        "--nanny",
        "--death-timeout 120",
        "--local-directory ${TMPDIR:-/tmp}",
        "--preload wsi_magnet.runtime.process_setup",
    ):
        assert words in line
    assert ("--lifetime 1350s --lifetime-stagger 150s" in line) == (kind != "htcondor"), "30 minutes by default"
    assert "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL=False" in script
    assert not (tmp_path / "wsi-magnet-logs").exists(), "looking leaves nothing behind"


def test_what_is_shown_is_what_is_submitted() -> None:
    one = spec(gpu=True, processes=2, job_script_prologue=["module load cuda"], worker_extra_args=["--no-dashboard"])
    with keep_sigint_handler():
        from dask_jobqueue.slurm import SLURMCluster
    with SLURMCluster(**job_options(one)) as cluster:
        real = cluster.job_script().replace(cluster.scheduler_address, "tcp://HOST:PORT")
    assert real.replace("--name dummy-name", "--name SLURMCluster-0") == job_script(one)


def test_a_gpu_job_declares_a_resource_a_thread() -> None:
    line = worker_line(job_script(spec(gpu=True, processes=2)))
    assert "--nthreads 4" in line
    assert "--nworkers 2" in line
    assert "--resources GPU=4" in line
    assert "--resources" not in worker_line(job_script(spec()))


def test_what_the_user_says_comes_on_top(tmp_path: Path) -> None:
    script = job_script(
        spec(
            job_name="tiles",
            python="apptainer exec image.sif python",
            local_directory="/scratch",
            log_directory=str(tmp_path / "logs"),
            death_timeout=33,
            queue="long",
            walltime="02:00:00",
            job_script_prologue=["module load openslide"],
            worker_extra_args=["--no-dashboard"],
        )
    )
    lines = script.splitlines()
    assert {"#SBATCH -J tiles", "#SBATCH -p long", "#SBATCH -t 02:00:00"} <= set(lines)
    assert lines.index("module load openslide") < lines.index(worker_line(script))
    line = worker_line(script)
    assert line.startswith("exec apptainer exec image.sif python -m distributed.cli.dask_worker")
    assert "--death-timeout 33 --local-directory /scratch --preload" in line
    assert line.endswith("--lifetime 6750s --lifetime-stagger 150s --no-dashboard")


def test_people_are_told_the_shape_of_a_job() -> None:
    assert job_shape(spec(walltime="04:00:00")) == (
        "1 worker process with 8 threads, 16GB, walltime 04:00:00, of which 230 to 235 minutes are used"
    )
    assert job_shape(spec("htcondor", processes=4)) == "4 worker processes with 2 threads, 16GB"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cores": None}, "options: cores of one job is missing; for example cores: 8, memory: 16GB"),
        ({"memory": None}, "options: memory of one job is missing"),
        ({"cores": "8"}, "options: cores is '8', not a whole number"),
        ({"processes": 9}, "options: 9 processes share 8 cores, fewer than one each"),
        ({"memory": "much"}, "options: "),
        ({"cpus": 8}, "options: dask-jobqueue knows no option cpus"),
        ({"job_script_prologue": "module load"}, "options: job_script_prologue is 'module load', not a list"),
        ({"memory": [1]}, "options: memory is [1], not text"),
        ({"log_directory": 5}, "options: log_directory is 5, not text"),
        ({"job_name": "two words"}, "options: job_name is 'two words'; batch systems take one word"),
        ({"walltime": "soon"}, "options: walltime 'soon' cannot be read"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: name)
    for use in (job_script, batch_cluster):
        with pytest.raises(ConfigError) as caught:
            use(spec(**options))
        assert f"some.yaml: {said}" in str(caught.value) or "unexpected keyword argument 'cpus'" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_without_dask_jobqueue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(ClusterError, match=r"kind slurm needs dask-jobqueue: pip install '\.\[jobqueue\]'"):
        job_script(spec())
