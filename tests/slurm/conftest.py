"""A Slurm of this machine alone for the tests that need a real one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Starts it; SLURM_CONF leads sbatch and its kin to it. Skips where it is not installed, or may not be started."""
    missing = [name for name in NEEDED if shutil.which(name) is None and not Path("/usr/sbin", name).exists()]
    if missing:
        pytest.skip(f"no Slurm is installed: {', '.join(missing)} not found (`make slurm` says how)")
    if os.geteuid() != 0:
        pytest.skip("a Slurm that runs jobs is started by root")
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([HERE / "start.sh", folder], capture_output=True, text=True, check=False)
    if started.returncode:
        subprocess.run([HERE / "stop.sh", folder], check=False)
        pytest.fail(f"Slurm is installed and does not start: {started.stderr}")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    yield folder
    subprocess.run([HERE / "stop.sh", folder], capture_output=True, check=False)
    del os.environ["SLURM_CONF"]
