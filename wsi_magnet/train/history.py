"""How a stage went: its losses and validation mIoU by step, as rows for a CSV, and what of it was best."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

COLUMNS = ("stage", "step", "loss", "learning_rate", "validation_miou")


@dataclass(frozen=True, slots=True)
class Row:
    """One step."""

    step: int
    """Counted from 1."""
    loss: float
    learning_rate: float
    miou: float | None
    """On the validation rows, 0 to 1; None for most steps."""
    seconds: float


@dataclass(slots=True)
class History:
    """The steps of a stage so far."""

    rows: list[Row] = field(default_factory=list)
    kept_from: int = 0
    """The first step that may be the best."""

    @property
    def looks(self) -> list[Row]:
        """The steps that were validated."""
        return [row for row in self.rows if row.miou is not None]

    @property
    def best(self) -> Row | None:
        """The first of the steps with the highest mIoU, of those that may be."""
        kept = [row for row in self.looks if row.step >= self.kept_from]
        return max(kept, key=lambda row: (row.miou or 0.0, -row.step), default=None)

    def is_best(self, step: int, miou: float) -> bool:
        """True where that is more than in any step before that may be the best."""
        return step >= self.kept_from and (self.best is None or miou > (self.best.miou or 0.0))

    def stale(self, patience: int) -> bool:
        """True after that many validations without a better one."""
        best = self.best
        return best is not None and sum(row.step > best.step for row in self.looks) >= patience

    def to_json(self) -> list[list[Any]]:
        """Plain values, a list a step."""
        return [[row.step, row.loss, row.learning_rate, row.miou, row.seconds] for row in self.rows]

    @staticmethod
    def from_json(values: Sequence[Sequence[Any]], kept_from: int = 0) -> History:
        """The inverse of `to_json`."""
        return History([Row(*value) for value in values], kept_from)


def to_csv(histories: Mapping[str, History]) -> str:
    """All stages as CSV; no times, so that the same training gives the same file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for stage, history in histories.items():
        for row in history.rows:
            miou = "" if row.miou is None else f"{row.miou:.6f}"
            writer.writerow([stage, row.step, f"{row.loss:.6g}", f"{row.learning_rate:.6g}", miou])
    return text.getvalue()
