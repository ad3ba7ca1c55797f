"""Outcomes of the drills: docs/faults/drill.json, and docs/faults.md made of it."""

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
    """Times that the fault came."""
    runs: int
    """Commands that were typed."""
    lost: int
    """Tiles missing in the end, each with its reason in run.json."""
    recovered_s: tuple[float, ...]
    """Seconds from each fault, or from its end, until work went on."""
    seconds: float
    """Facts of the whole drill."""
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
class Told:
    """All of them, and all that is needed to play them again."""

    played: tuple[Played, ...]
    seed: int
    machine: str
    seconds: float

    def table(self) -> Table:
        """A row a drill."""
        columns = ("fault", "injected", "runs", "masks", "tiles lost", "seconds to recover")
        return Table(columns, [one.cells() for one in self.played])


def keep(told: Told) -> None:
    """Replace the record and the page."""
    values = {"date": datetime.now(UTC).date().isoformat(), **asdict(told)}
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(values), encoding="utf-8")


def page(values: Mapping[str, Any]) -> str:
    """docs/faults.md out of the record."""
    played = tuple(Played(**{**one, "recovered_s": tuple(one["recovered_s"])}) for one in values["played"])
    told = Told(played, values["seed"], values["machine"], values["seconds"])
    lines = [
        "# Faults",
        "",
        "Made by `make drill`; not to be edited. Each fault comes to real processes at random moments in the middle of",
        "a run. *Masks*: equal, bit for bit and level by level, to that of a run that nobody disturbed, but for the",
        "tiles told as lost, each with its reason in `run.json`. *Runs*: commands that were typed. *Seconds to",
        "recover*: the longest from a fault, or from its end where it lasts, until the next tile was finished, of a",
        "worker in the place of the one that was killed; for a tile that is lost, from all others' end; empty where",
        "nothing had to be waited for. A drill that reaches its time limit has failed.",
        "",
        f"`python -m drill --seed {told.seed}`, {values['date']}, {told.machine};",
        f"{told.seconds / 60:.0f} minutes",
        "",
        *told.table().lines(),
    ]
    return "\n".join(lines) + "\n"
