"""A running drill: the typed commands, their journals, and the comparison of the results."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from drill.processes import Processes
from drill.stage import WORK, Stage, environment, masks, program

FINEST = 2
"""Scale whose tiles may be lost: no other tile depends on them, so all others must be equal bit for bit."""

NOT_ANALYSED = 255
_POLL_S = 0.05

TileLine = tuple[tuple[int, int, int], str]
"""(scale, row, column) of a finished tile and the process that did it."""


class DrillFailedError(AssertionError):
    """A drill in which the program broke a promise."""


class SkippedError(Exception):
    """A drill that cannot run on this machine; the text gives the reason."""


@dataclass(frozen=True, eq=False)
class Typed:
    """A command that was typed."""

    process: subprocess.Popen[bytes]
    results: tuple[Path, ...]
    """Its result folders, one for each slide."""

    @property
    def finished(self) -> bool:
        """True if the process has ended."""
        return self.process.poll() is not None

    @property
    def lines(self) -> list[TileLine]:
        """The finished tiles in the journals of all its results."""
        return [line for result in self.results for line in tile_lines(result)]


@dataclass(eq=False)
class Scene:
    """State of a drill: its stage, its processes, and the figures for the table."""

    stage: Stage
    processes: Processes
    rng: random.Random
    folder: Path
    deadline: float
    injected: int = 0
    runs: int = 0
    lost: int = 0
    """Tiles missing in the end, each with its reason."""
    recovered_s: list[float] = field(default_factory=list)

    @property
    def out(self) -> Path:
        """Default output folder of runs."""
        return self.folder / "out"

    @property
    def result(self) -> Path:
        """Result folder of the stage's slide in `out`."""
        return self.out / self.stage.slide.stem

    # ---- commands --------------------------------------------------------------------------------------------------

    def type(
        self,
        *options: str | Path,
        slide: Path | None = None,
        out: Path | None = None,
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> Typed:
        """`wsi-magnet run` of the slide with these options; prefix: words before the command."""
        slide, out = slide or self.stage.slide, out or self.out
        command = program("run", slide, "-o", out, "--bundle", self.stage.bundle, *WORK, *options)
        self.runs += 1
        process = self.processes.start([*prefix, *command], "run", environment(**env or {}))
        return Typed(process, (out / slide.stem,))

    def type_batch(self, folder: Path, *options: str) -> Typed:
        """`wsi-magnet batch` of all slides in a folder."""
        command = program("batch", folder, "-o", self.out, "--bundle", self.stage.bundle, *WORK, *options)
        self.runs += 1
        process = self.processes.start(command, "batch", environment())
        return Typed(process, tuple(self.out / slide.stem for slide in sorted(folder.iterdir())))

    def finish(self, typed: Typed, code: int = 0) -> str:
        """Wait for a command's end and check its exit code. Returns its error line, if there is one."""
        self.until(lambda: typed.finished, "the command does not end")
        output = self.processes.errors(typed.process)
        if typed.process.returncode != code:
            raise DrillFailedError(f"exit code {typed.process.returncode}, not {code}: {output[-2000:]}")
        if "Traceback" in output:
            raise DrillFailedError(f"a traceback: {output[-2000:]}")
        errors = [line for line in output.splitlines() if line.startswith("Error: ")]
        if code == 1 and len(errors) != 1:
            raise DrillFailedError(f"{len(errors)} lines begin with Error: {output[-2000:]}")
        return errors[0] if errors else ""

    # ---- watching --------------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], bool], trouble: str, within_s: float | None = None) -> float:
        """Wait for a condition and return the seconds that it took; a drill that reaches its time limit has failed."""
        started = time.monotonic()
        limit = self.deadline if within_s is None else min(self.deadline, started + within_s)
        while not condition():
            if time.monotonic() > limit:
                raise DrillFailedError(f"{trouble} ({time.monotonic() - started:.0f} s waited)")
            time.sleep(_POLL_S)
        return time.monotonic() - started

    def until_tiles(self, typed: Typed, more: int) -> None:
        """Wait until the journals have that many more lines, or the command has ended."""
        wanted = len(typed.lines) + more
        self.until(lambda: typed.finished or len(typed.lines) >= wanted, "no tile is finished")

    def until_middle(self, typed: Typed, least: int = 1, most: int = 12) -> bool:
        """Wait for a random moment between two tiles; False if the command has ended before."""
        self.until_tiles(typed, self.rng.randint(least, most))
        time.sleep(self.rng.random() * 0.3)
        return not typed.finished

    def note_recovery(self, typed: Typed, *, other_worker: bool = False) -> None:
        """Wait for the next tile and note the seconds. other_worker: wait for a tile of a process without any so far.

        If the command ends before, nothing is noted.
        """
        before = Counter(typed.lines)
        workers = {worker for _, worker in before}

        def recovered() -> bool:
            fresh = Counter(typed.lines) - before
            return any(not other_worker or worker not in workers for _, worker in fresh)

        seconds = self.until(lambda: recovered() or typed.finished, "no tile follows")
        if recovered():
            self.recovered_s.append(seconds)

    # ---- results ---------------------------------------------------------------------------------------------------

    def check(self, result: Path | None = None, *, lost: bool = False) -> None:
        """Compare a finished result with the undisturbed one, bit for bit.

        lost: tiles may be missing, each with its reason in run.json; all others must be equal.
        """
        result = result or self.result
        run = json.loads((result / "run.json").read_text())
        found = masks(result)
        missing = (found[0] == NOT_ANALYSED) | _unreadable(result, found[0].shape)
        if missing.any() and not lost:
            raise DrillFailedError(f"{int(missing.sum())} pixels are missing: {run.get('failures')}")
        self._compare(found, missing)
        reasons = run["failures"]
        cells = sum(one["cells_unreadable"] for one in run["summary"]["scales"])
        if bool(reasons) != bool(missing.any()) or len(reasons) != cells or not all(reasons):
            raise DrillFailedError(f"{cells} cells are missing for {len(reasons)} reasons")
        state = "finished with errors" if reasons else "finished"
        if run["state"] != state:
            raise DrillFailedError(f"the state in run.json is {run['state']!r}")
        if leftovers := [*result.rglob("*.partial")]:
            raise DrillFailedError(f"{len(leftovers)} half-written files are left, {leftovers[0]} among them")
        self.lost += len(lost_tiles(result))

    def _compare(self, found: Sequence[np.ndarray], missing: np.ndarray) -> None:
        expected = self.stage.expected
        if [level.shape for level in found] != [level.shape for level in expected]:
            raise DrillFailedError(f"the mask has levels {[level.shape for level in found]}")
        wrong = (found[0] != expected[0]) & ~missing
        if wrong.any():
            raise DrillFailedError(f"{int(wrong.sum())} pixels of the mask differ from an undisturbed run's")
        if not missing.any() and any((a != b).any() for a, b in zip(found, expected, strict=True)):
            raise DrillFailedError("the mask's pyramid differs from an undisturbed run's")


def tile_lines(result: Path) -> list[TileLine]:
    """The finished tiles of a journal, in its order."""
    try:
        text = (result / "journal.jsonl").read_text()
    except OSError:
        return []
    entries = (json.loads(line) for line in text.split("\n")[:-1] if line.startswith('{"tile"'))
    return [((*map(int, entry["tile"]),), entry["worker"]) for entry in entries]  # type: ignore[misc]


def _unreadable(result: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Bool mask of the unreadable cells of the finest scale, which keep the coarser result."""
    unreadable = np.zeros(shape, np.bool_)
    for line in (result / "journal.jsonl").read_text().splitlines():
        if line.startswith('{"tile"') and (entry := json.loads(line))["tile"][0] == FINEST:
            for row, col, _, _, failure, *_ in entry["cells"]:
                if failure:
                    unreadable[row * 512 : (row + 1) * 512, col * 512 : (col + 1) * 512] = True
    return unreadable


def lost_tiles(result: Path) -> set[tuple[int, int, int]]:
    """Tiles with an unreadable cell."""
    lines = (result / "journal.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines if line.startswith('{"tile"')]
    return {tuple(entry["tile"]) for entry in entries if any(cell[4] for cell in entry["cells"])}
