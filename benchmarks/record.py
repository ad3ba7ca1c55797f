"""Records of the benchmarks, one file each, and docs/performance.md made of all of them.

Explanations of the figures, for example why a target was missed, are in docs/performance/NAME.md, without figures
of its own, and is put below them.

Every benchmark prints its record. With --record it also replaces its file in docs/performance/ and writes
docs/performance.md anew, so that no figure in it is typed by hand and each can be measured again on its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from benchmarks.measure import machine
from wsi_magnet.errors import WsiMagnetError

DOCS = Path(__file__).resolve().parents[1] / "docs"
RECORDS = DOCS / "performance"
PAGE = DOCS / "performance.md"
ORDER = (
    "peers",
    "memory",
    "refinement",
    "methods",
    "day",
    "everyday",
    "precision",
    "gpu",
    "export",
    "crowd",
    "scaling",
    "loop",
    "pipeline",
    "compression",
)
"""Order of the sections, what users choose by first; others follow by name."""


@dataclass(frozen=True, slots=True)
class Aim:
    """A target, and the measured figure."""

    what: str
    value: float
    bound: float
    kind: Literal["at most", "at least"] = "at most"

    @property
    def met(self) -> bool:
        """True if the target is met."""
        return self.value <= self.bound if self.kind == "at most" else self.value >= self.bound

    def __str__(self) -> str:
        return f"{self.what}: {self.value:.3g}, {self.kind} {self.bound:g} wanted: {'met' if self.met else 'MISSED'}"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def lines(self) -> list[str]:
        """Lines of Markdown, aligned so that they are readable in a terminal."""
        widths = [max(len(str(row[i])) for row in (self.columns, *self.rows)) for i in range(len(self.columns))]

        def line(cells: Sequence[str]) -> str:
            padded = (c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
            return f"| {' | '.join(padded)} |"

        rule = "|".join(("-" * (w + 1) + (":" if i else "-")) for i, w in enumerate(widths))
        return [line(self.columns), f"|{rule}|", *map(line, self.rows)]


@dataclass(frozen=True, slots=True)
class Measurement:
    """Outcome of a benchmark."""

    table: Table
    aims: Sequence[Aim] = ()
    notes: Sequence[str] = ()
    """Paragraphs below the table: explanations of the columns and of missed targets."""


@dataclass(frozen=True, slots=True)
class Record:
    """A measurement with everything needed to repeat it."""

    name: str
    title: str
    command: str
    machine: str
    date: str
    measurement: Mapping[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Lines of a section of the page."""
        values = self.measurement
        table = Table(values["table"]["columns"], values["table"]["rows"])
        aims = [f"- {Aim(**aim)}" for aim in values["aims"]]
        notes = [part for note in values["notes"] for part in (note, "")]
        return [
            f"## {self.title}",
            "",
            f"`{self.command}`, {self.date}, {self.machine}",
            "",
            *table.lines(),
            "",
            *([*aims, ""] if aims else []),
            *notes,
        ]


def benchmark(
    name: str,
    title: str,
    measure: Callable[[argparse.Namespace], Measurement],
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> None:
    """Main program of a benchmark: measure, print, and with --record store the figures.

    name: name of the module in benchmarks/ and of its file in docs/performance/.
    """
    parser = argparse.ArgumentParser(description=title)
    add_options(parser)
    parser.add_argument("--record", action="store_true", help="store the figures and rewrite docs/performance.md")
    parser.add_argument("--record-to", type=Path, default=RECORDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    where, command = machine(), " ".join(["python -m", f"benchmarks.{name}", *_for_readers(sys.argv[1:])])
    if options.record:
        options.record_to.mkdir(parents=True, exist_ok=True)
        if not os.access(options.record_to, os.W_OK):
            sys.exit(f"{name}: {options.record_to} cannot be written, so nothing was measured")
    try:
        measurement = measure(options)
    except WsiMagnetError as error:
        sys.exit(f"{name}: {error}")
    today = datetime.now(UTC).date().isoformat()
    record = Record(name, title, command, where, today, asdict(measurement))
    print("\n".join(record.lines()), flush=True)
    if options.record:
        content = json.dumps(asdict(record), indent=1, ensure_ascii=False)
        (options.record_to / f"{name}.json").write_text(content + "\n", encoding="utf-8")
        if options.record_to == RECORDS:
            write_page()


def _for_readers(arguments: Sequence[str]) -> list[str]:
    """The arguments for readers: paths by their last part."""
    kept, skip = [], False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not skip and name not in ("--record", "--record-to"):
            kept.append(Path(name).name + equals + Path(value).name)
        skip = argument == "--record-to"
    return kept


def write_page() -> None:
    """Write docs/performance.md from the records."""
    records = [Record(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted(RECORDS.glob("*.json"))]
    position = {name: i for i, name in enumerate(ORDER)}
    records.sort(key=lambda record: (position.get(record.name, len(position)), record.name))
    lines = [
        "# Performance",
        "",
        "Made by `make bench` and, where there is a GPU, `make bench-gpu`; not to be edited. Each section is the",
        "output of the command under its title; `--record` puts it here. Ratios were measured in one run, so that a",
        "busy machine moves both sides of them; seconds depend on the machine and on what else it did (its load is",
        "given).",
        "",
    ]
    for record in records:
        lines += record.lines()
        remarks = RECORDS / f"{record.name}.md"
        if remarks.exists():
            lines += [remarks.read_text(encoding="utf-8").strip(), ""]
    PAGE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_page()
