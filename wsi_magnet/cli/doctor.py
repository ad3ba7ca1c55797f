"""`wsi-magnet doctor`: whether this installation will work, and what to do where it will not."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import click

from wsi_magnet.cli import options

if TYPE_CHECKING:
    from wsi_magnet.doctor.lines import Line
    from wsi_magnet.doctor.report import Report

_STATE, _SUBJECT = 9, 15
"""Columns of a line's first two words."""

_NARROW, _WIDE = 60, 120


@click.command("doctor", short_help="Show whether this installation will work.")
@options.bundle_option
@click.option("--slide", type=click.Path(), metavar="SLIDE", help="Also look whether this slide can be read.")
@click.option("-o", "--output", type=click.Path(), metavar="OUT", help="Also look whether results can be put there.")
@options.execution_options
@options.json_option
def command(
    bundle: str | None,
    slide: str | None,
    output: str | None,
    device: str,
    workers: int | None,
    scheduler: str | None,
    cluster: str | None,
    as_json: bool,
) -> None:
    """Look at packages, readers, processors, GPUs, memory and disk, and segment a small slide made for it.

    \b
      wsi-magnet doctor
      wsi-magnet doctor --slide slide.svs -o results --device cuda
      wsi-magnet doctor -o /shared/results --scheduler tcp://head:8786

    Each line is ok, a warning, or a PROBLEM with its cure. Nothing is left behind. Exit 1 if there is any problem.
    """
    execution = options.make_execution(device=device, workers=workers, scheduler=scheduler, cluster=cluster)

    from wsi_magnet.doctor.asked import Asked
    from wsi_magnet.doctor.examine import examine

    begun = time.perf_counter()
    report = examine(Asked(execution, bundle, slide, output), _silent if as_json else _tell)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
    else:
        click.echo(_ending(report, time.perf_counter() - begun))
    if report.problems:
        sys.exit(1)


def _tell(line: Line) -> None:
    click.echo(wrapped(line, shutil.get_terminal_size((100, 24)).columns))


def _silent(line: Line) -> None:
    """With --json all is told at the end."""


def wrapped(line: Line, columns: int) -> str:
    """A line for a terminal of that many columns: text and cure below each other, paths unbroken."""
    margin = " " * (_STATE + _SUBJECT)
    width = min(max(columns - 1, _NARROW), _WIDE)
    head = f"{line.state.ljust(_STATE)}{line.subject.ljust(_SUBJECT - 1)} "
    parts = [(head, line.text), *([(f"{margin}Cure: ", line.cure)] if line.cure else [])]
    return "\n".join(
        textwrap.fill(
            text,
            width,
            initial_indent=first,
            subsequent_indent=margin,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for first, text in parts
    )


def _ending(report: Report, seconds: float) -> str:
    from wsi_magnet.text import counted

    problems = counted(report.problems, "problem") if report.problems else "No problems"
    warnings = counted(report.warnings, "warning") if report.warnings else "no warnings"
    return f"\n{problems}, {warnings}; looked for {seconds:.1f} s."
