"""`wsi-magnet doctor`: check whether this installation will work, with a remedy for each problem."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from typing import IO, TYPE_CHECKING

import click

from wsi_magnet.cli import options

if TYPE_CHECKING:
    from wsi_magnet.doctor.check import CheckResult

_STATUS, _SUBJECT = 9, 16
"""Columns of the first two words of a line."""

_NARROW, _WIDE = 60, 120

OPENING = "Checking this installation; loading PyTorch takes most of the time"


@click.command("doctor", short_help="Check whether this installation will work.")
@options.bundle_option
@click.option("--slide", type=click.Path(), metavar="SLIDE", help="Also check that this slide can be read.")
@options.mpp_option
@click.option("-o", "--output", type=click.Path(), metavar="OUT", help="Also check that results can be written there.")
@options.execution_options
@options.json_option
def command(
    bundle: str | None,
    slide: str | None,
    mpp: float | None,
    output: str | None,
    device: str,
    workers: int | None,
    scheduler: str | None,
    cluster: str | None,
    as_json: bool,
) -> None:
    """Check packages, readers, cores, memory, GPUs, disk, and the workers of a cluster.

    \b
      wsi-magnet doctor
      wsi-magnet doctor --slide slide.svs -o results --device cuda
      wsi-magnet doctor -o /shared/results --scheduler tcp://head:8786

    Warnings and problems come last, each with its remedy. Nothing stays behind. Exit 1 if there is any problem.
    """
    if mpp is not None and slide is None:
        raise click.UsageError("--mpp is the resolution of a slide; give one with --slide")
    execution = options.make_execution(device=device, workers=workers, scheduler=scheduler, cluster=cluster)

    click.echo(OPENING, err=True)  # before the imports
    announce = Announcer(sys.stderr)

    from wsi_magnet.doctor.check import Request
    from wsi_magnet.doctor.run import run_checks, to_json

    results: list[CheckResult] = []
    for one in run_checks(Request(execution, bundle, slide, output, mpp), announce):
        announce.clear()
        results.append(one)
        if not as_json and one.status in ("ok", "note"):
            click.echo(_shown(one))
    announce.clear()
    found = to_json(results)
    click.echo(json.dumps(found, indent=2) if as_json else _ending(results))
    if found["problems"]:
        sys.exit(1)


class Announcer:
    """Shows the check that runs, in a line that is overwritten; only on a terminal."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream if stream.isatty() else None

    def __call__(self, what: str) -> None:
        """Show the subject of a check in place of the one before."""
        self._write(f"Checking {what} ...")

    def clear(self) -> None:
        """Erase the line, before anything else is printed."""
        self._write("")

    def _write(self, text: str) -> None:
        if self._stream is not None:
            print(f"\r\x1b[K{text}", end="", file=self._stream, flush=True)


def _shown(one: CheckResult) -> str:
    return wrapped(one, shutil.get_terminal_size((100, 24)).columns)


def wrapped(one: CheckResult, columns: int) -> str:
    """A result for a terminal of that many columns: text and remedy aligned, paths unbroken."""
    margin = " " * (_STATUS + _SUBJECT)
    status = "PROBLEM" if one.status == "problem" else one.status
    head = f"{status.ljust(_STATUS)}{one.subject.ljust(_SUBJECT - 1)} "
    return "\n".join(
        textwrap.fill(
            text,
            min(max(columns - 1, _NARROW), _WIDE),
            initial_indent=first,
            subsequent_indent=margin,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for first, text in ((head, one.text), (f"{margin}Remedy: ", one.remedy))
        if text
    )


def _ending(results: list[CheckResult]) -> str:
    """Warnings, then problems, then how many there are."""
    from wsi_magnet.text import counted

    warnings, problems = ([one for one in results if one.status == status] for status in ("warning", "problem"))
    counts = [f"{counted(len(problems), 'problem')}" if problems else "No problems"]
    counts.append(counted(len(warnings), "warning") if warnings else "no warnings")
    last = f"{', '.join(counts)}."
    if not problems:
        last += " To try a whole run: `make demo` in the checkout, or `wsi-magnet run SLIDE -o OUT`."
    shown = "\n".join(map(_shown, [*warnings, *problems]))
    return "\n\n".join(filter(None, ["", shown, last])) if shown else f"\n{last}"
