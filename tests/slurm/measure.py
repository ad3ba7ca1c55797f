"""How long the demo's slide takes through a Slurm of this machine, and to its first tile: python -m tests.slurm.measure

As root, with slurmctld, slurmd, slurm-client and munge installed. The same run without Slurm is beside it. Nothing
is queued here: what a real queue adds is its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from dask.system import CPU_COUNT

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SLIDE = ROOT / "demo" / "rings_P1_D5_9_13.tif"
RUNS = 3


def main() -> None:
    """Print a table, and the load of the machine before and after."""
    print(f"{CPU_COUNT} processors, load before: {os.getloadavg()[0]:.1f}")
    print("| workers | to the first tile | in all | best of |\n|---|---|---|---|")
    with TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([HERE / "start.sh", folder / "slurm"], check=True)
        os.environ["SLURM_CONF"] = str(folder / "slurm" / "slurm.conf")
        try:
            for words, options in ways(folder):
                times = [run(folder, options) for _ in range(RUNS)]
                first, total = (min(column) for column in zip(*times, strict=True))
                print(f"| {words} | {first:.1f} s | {total:.1f} s | {RUNS} |", flush=True)
        finally:
            subprocess.run([HERE / "stop.sh", folder / "slurm"], check=False)
    print(f"load after: {os.getloadavg()[0]:.1f}")


def ways(folder: Path) -> list[tuple[str, list[str]]]:
    """Names and options of what is compared: two workers of one thread each, started by the run or by Slurm."""
    job = "options: {cores: 1, memory: 4GB, walltime: '00:30:00'}\n"
    fixed, adaptive = folder / "fixed.yaml", folder / "adaptive.yaml"
    fixed.write_text(f"kind: slurm\nworkers: 2\n{job}")
    adaptive.write_text(f"kind: slurm\nadapt: {{minimum: 1, maximum: 2}}\n{job}")
    return [
        ("threads of the run's own process", []),
        ("`--workers 2`", ["--workers", "2"]),
        ("Slurm, `workers: 2`", ["--cluster", str(fixed)]),
        ("Slurm, `adapt: {minimum: 1, maximum: 2}`", ["--cluster", str(adaptive)]),
    ]


def run(folder: Path, options: list[str]) -> tuple[float, float]:
    """Seconds from the command to the first tile in the journal, and to its end."""
    command = [sys.executable, "-m", "wsi_magnet", "run", str(SLIDE), "--mpp", "0.93", "-o", str(folder / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    journal = folder / "out" / SLIDE.stem / "journal.jsonl"
    journal.unlink(missing_ok=True)
    begun = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--overwrite", *options],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    first = None
    while process.poll() is None:
        if first is None and journal.exists() and '"tile"' in journal.read_text():
            first = time.perf_counter() - begun
        time.sleep(0.02)
    if process.returncode or first is None:
        raise SystemExit(process.stderr.read().decode() if process.stderr else "no tile")
    return first, time.perf_counter() - begun


if __name__ == "__main__":
    main()
