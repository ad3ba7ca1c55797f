"""Outcomes of the drills: docs/faults/drill.json, and docs/faults.md made from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from benchmarks.record import DOCS, Table

RECORD = DOCS / "faults" / "drill.json"
PAGE = DOCS / "faults.md"


@dataclass(frozen=True, slots=True)
class Played:
    """Outcome of one drill."""

    fault: str
    injected: int
    """Number of times that the fault was injected."""
    runs: int
    """Number of commands that were typed."""
    lost: int
    """Tiles missing in the end, each with its reason in run.json."""
    recovered_s: tuple[float, ...]
    """Seconds from each fault, or from its end, until the work continued."""
    seconds: float
    """Seconds of the whole drill."""
    failed: str = ""
    skipped: str = ""

    def cells(self) -> list[str]:
        """Columns of the table."""
        if self.skipped:
            return [self.fault, "", "", f"skipped: {self.skipped}", "", ""]
        longest = f"{max(self.recovered_s):.1f}" if self.recovered_s else ""
        masks = (
            f"FAILED: {' '.join(self.failed.split())[-160:]}"
            if self.failed
            else "equal elsewhere"
            if self.lost
            else "equal"
        )
        return [self.fault, str(self.injected), str(self.runs), masks, str(self.lost), longest]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Outcomes of all drills, with everything needed to repeat them."""

    played: tuple[Played, ...]
    seed: int
    machine: str
    seconds: float

    def table(self) -> Table:
        """Table with one row for each drill."""
        columns = ("fault", "injected", "runs", "masks", "tiles lost", "seconds to recover")
        return Table(columns, [one.cells() for one in self.played])


def keep(outcomes: Outcomes) -> None:
    """Replace the record and the page."""
    values = {"date": datetime.now(UTC).date().isoformat(), **asdict(outcomes)}
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(values), encoding="utf-8")


def page(values: Mapping[str, Any]) -> str:
    """Text of docs/faults.md from the record."""
    played = tuple(Played(**{**one, "recovered_s": tuple(one["recovered_s"])}) for one in values["played"])
    outcomes = Outcomes(played, values["seed"], values["machine"], values["seconds"])
    lines = [
        "# Faults",
        "",
        "Made by `make drill`; not to be edited. Each fault is injected into real processes at random moments.",
        "*Masks*: equal, bit for bit and level by level, to that of an undisturbed run, except for tiles reported as",
        "lost, each with its reason in `run.json`. *Runs*: commands that were typed. *Seconds to recover*: the",
        "longest time from a fault, or from its end where it lasts, until the next tile was finished (after a worker",
        "was killed, by another worker; for a lost tile, from the end of all others); empty where there was nothing to",
        "wait for. A drill that reaches its time limit has failed.",
        "",
        f"`python -m drill --seed {outcomes.seed}`, {values['date']}, {outcomes.machine};",
        f"{outcomes.seconds / 60:.0f} minutes",
        "",
        *outcomes.table().lines(),
    ]
    return "\n".join(lines) + "\n"
