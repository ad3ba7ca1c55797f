"""`make drill`: inject every fault into real runs at random moments, and compare the masks.

    python -m drill [--only NAME ...] [--seed N] [--record] [--keep FOLDER]

Exit code 1 if a drill fails: a mask that differs, a tile that is missing without a reason, or a time limit reached.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.measure import machine
from drill import record
from drill.drills import DRILLS, Drill
from drill.processes import Processes
from drill.record import Played
from drill.scene import DrillFailedError, Scene, SkippedError
from drill.stage import Stage, run_undisturbed, write_stage


def main() -> int:
    """Run the chosen drills one after the other. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m drill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=[drill.name for drill in DRILLS], metavar="NAME", default=[])
    parser.add_argument("--seed", type=int, default=1, help="seed of the moments of the faults")
    parser.add_argument("--record", action="store_true", help="store the figures and rewrite docs/faults.md")
    parser.add_argument("--keep", type=Path, help="an empty folder in which everything is kept; default: deleted")
    options = parser.parse_args()
    where, started = machine(), time.monotonic()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="drill-"))
    try:
        stage = write_stage(folder / "stage")
        stage = replace(stage, expected=run_undisturbed(stage))
        chosen = [drill for drill in DRILLS if drill.name in options.only or not options.only]
        played = [play(drill, stage, folder / drill.name, options.seed) for drill in chosen]
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    outcomes = record.Outcomes(tuple(played), options.seed, where, time.monotonic() - started)
    print("\n".join(["", *outcomes.table().lines()]), flush=True)
    if options.record and not options.only:
        record.keep(outcomes)
    return 1 if any(one.failed for one in played) else 0


def play(drill: Drill, stage: Stage, folder: Path, seed: int) -> Played:
    """Run one drill from its first process to its last, within its time limit and the seconds that ending takes."""
    print(f"{drill.name}: {drill.fault}", end=" ", flush=True)
    folder.mkdir()
    started = time.monotonic()
    with Processes(folder / "output") as processes:
        rng = random.Random(f"{seed} {drill.name}")
        scene = Scene(stage, processes, rng, folder, started + drill.limit_s)
        trouble, skipped = "", ""
        try:
            drill.play(scene)
        except DrillFailedError as error:
            trouble = str(error)
        except SkippedError as error:
            skipped = str(error)
    if not trouble and not skipped and not scene.injected:
        trouble = "the run was over before a fault was injected"
    seconds = time.monotonic() - started
    ended = f"FAILED: {trouble}" if trouble else f"skipped: {skipped}" if skipped else "ok"
    print(f"{ended} ({seconds:.0f} s)", flush=True)
    recovered = tuple(round(s, 2) for s in scene.recovered_s)
    return Played(drill.fault, scene.injected, scene.runs, scene.lost, recovered, round(seconds, 1), trouble, skipped)


if __name__ == "__main__":
    sys.exit(main())
