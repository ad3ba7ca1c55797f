"""`make drill`: every fault, injected into real runs at random moments, and what came of it.

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
from drill.company import Company
from drill.programme import DRILLS, Drill
from drill.record import Played
from drill.scene import DrillFailedError, Scene, SkippedError
from drill.stage import Stage, run_undisturbed, write_stage


def main() -> int:
    """All that were asked for, one after the other. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m drill", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=[drill.name for drill in DRILLS], metavar="NAME", default=[])
    parser.add_argument("--seed", type=int, default=1, help="of the moments at which faults come")
    parser.add_argument("--record", action="store_true", help="keep the figures and write docs/faults.md anew")
    parser.add_argument("--keep", type=Path, help="an empty folder for all that is made; default: deleted")
    options = parser.parse_args()
    where, begun = machine(), time.monotonic()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="drill-"))
    try:
        stage = write_stage(folder / "stage")
        stage = replace(stage, expected=run_undisturbed(stage))
        chosen = [drill for drill in DRILLS if drill.name in options.only or not options.only]
        played = [play(drill, stage, folder / drill.name, options.seed) for drill in chosen]
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    told = record.Told(tuple(played), options.seed, where, time.monotonic() - begun)
    print("\n".join(["", *told.table().lines()]), flush=True)
    if options.record and not options.only:
        record.keep(told)
    return 1 if any(one.failed for one in played) else 0


def play(drill: Drill, stage: Stage, folder: Path, seed: int) -> Played:
    """One drill from its first process to its last; never longer than its limit and the seconds that ending takes."""
    print(f"{drill.name}: {drill.fault}", end=" ", flush=True)
    folder.mkdir()
    begun = time.monotonic()
    with Company(folder / "said") as company:
        rng = random.Random(f"{seed} {drill.name}")
        scene = Scene(stage, company, rng, folder, begun + drill.limit_s)
        trouble, skipped = "", ""
        try:
            drill.play(scene)
        except DrillFailedError as error:
            trouble = str(error)
        except SkippedError as error:
            skipped = str(error)
    if not trouble and not skipped and not scene.injected:
        trouble = "the run was over before a fault came"
    seconds = time.monotonic() - begun
    ended = f"FAILED: {trouble}" if trouble else f"skipped: {skipped}" if skipped else "ok"
    print(f"{ended} ({seconds:.0f} s)", flush=True)
    recovered = tuple(round(s, 2) for s in scene.recovered_s)
    return Played(drill.fault, scene.injected, scene.runs, scene.lost, recovered, round(seconds, 1), trouble, skipped)


if __name__ == "__main__":
    sys.exit(main())
