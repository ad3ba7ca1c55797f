"""`wsi-magnet status`: progress, failures and the resuming command of a batch or of runs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from wsi_magnet.cli import options

if TYPE_CHECKING:
    from wsi_magnet.cohort.status import SlideInFlight, Status


@click.command("status", short_help="Show the status of a batch or a run.")
@click.argument("out", metavar="OUT", type=click.Path())
@options.json_option
def command(out: str, as_json: bool) -> None:
    """Show the status of the batch or the runs in OUT, or of the run in a slide's result folder: the process that works
    on it, the slides that are finished, failed and in flight, the time left, and the command that resumes it.

    \b
      wsi-magnet status results
      wsi-magnet status results/slide --json

    It can be called at any time and on any machine that sees OUT. Exit 0 while it runs and if it finished without
    failures, 1 if it was stopped before its end or has failures.
    """
    from wsi_magnet.cohort.status import status_of
    from wsi_magnet.storage.location import to_location

    status = status_of(to_location(out).absolute())
    click.echo(json.dumps(status.to_json(), indent=2) if as_json else _text(status))
    if not status.is_well:
        sys.exit(1)


def _text(status: Status) -> str:
    from wsi_magnet.cli.tables import facts, failures_text, table
    from wsi_magnet.text import counted, rough_duration_text

    worker = status.worker or "no process works on it"
    written = "" if status.silent_s is None else f"; last write {rough_duration_text(status.silent_s)} ago"
    started = "running" if status.worker else "started"
    counts = ", ".join(f"{count} {started if state == 'running' else state}" for state, count in status.counts.items())
    pairs: list[tuple[str, object]] = [(status.kind, status.folder), ("state", f"{status.state} ({worker}{written})")]
    if status.kind != "run":
        pairs.append(("slides", f"{sum(status.counts.values())}: {counts}"))
    if status.alarms:
        alone = status.kind == "run"
        kinds = (kind if alone else f"{kind} ({counted(count, 'slide')})" for kind, count in status.alarms.items())
        pairs.append(("alarms", "; ".join(kinds)))
    if status.slides_an_hour is not None:
        pairs.append(("pace", f"{status.slides_an_hour:.3g} slides an hour"))
    if status.left_s is not None and status.worker is not None:
        limit = "at most" if status.left_is_limit else "about"
        pairs.append(("left", f"{limit} {rough_duration_text(status.left_s)}"))
    parts = [facts(pairs)]
    if status.in_flight:
        parts.append(
            table(
                [
                    "in flight" if status.worker and not status.counts.get("stopped") else "started",
                    "scale",
                    "tiles",
                    "done",
                    "attempt",
                ],
                [_row(one) for one in status.in_flight],
            )
        )
    if status.failed:
        parts.append(failures_text(status.failed))
    if status.resume_command and (status.state == "stopped" or status.counts.get("stopped")):
        parts.append("\n  ".join(["To resume:", *status.resume_command.splitlines()]))
    return "\n\n".join(parts)


def _row(one: SlideInFlight) -> list[object]:
    if not one.scales:
        return [one.name, "opening", "", "", one.attempt]
    done = f"{100 * one.share:.0f} %"
    return [one.name, f"{one.scale + 1}/{one.scales}", f"{one.tiles_done} of {one.tiles}", done, one.attempt]
