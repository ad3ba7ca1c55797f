"""`wsi-magnet batch`: segment many slides on one queue."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from wsi_magnet.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsi_magnet.cohort.batch import CohortSummary
    from wsi_magnet.cohort.options import CohortOptions


@click.command("batch", short_help="Segment many slides.")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option(
    "-o", "--output", required=True, type=click.Path(), metavar="OUT", help="Results go to OUT/<slide name>/."
)
@options.bundle_option
@options.work_options
@options.batch_execution_options
@options.dashboard_option
@click.option(
    "--skip-errors/--fail-fast",
    default=True,
    show_default=True,
    help="Record a slide that fails and continue with the others, or end the batch.",
)
@click.option("--override-mpp", is_flag=True, help="Use --mpp for all slides, not only for those without an mpp.")
@click.option("--retry-failed", is_flag=True, help="Also repeat slides that failed before.")
@click.option(
    "--in-flight",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Slides at once. [default: 2, and one more for each 16 tiles that can be computed at once, up to 16]",
)
@click.option(
    "--restart", is_flag=True, help="Restart these slides, also if their results were made with other options."
)
@click.option("--overwrite", is_flag=True, help="Replace everything in these slides' result folders.")
@options.json_option
def command(
    sources: tuple[str, ...],
    output: str,
    bundle: str | None,
    device: str,
    workers: int | None,
    scheduler: str | None,
    cluster: str | None,
    dashboard: bool,
    skip_errors: bool,
    override_mpp: bool,
    retry_failed: bool,
    in_flight: int | None,
    restart: bool,
    overwrite: bool,
    as_json: bool,
    **work: Any,
) -> None:
    """Segment all slides of SOURCE into OUT/<slide name>/, and list their outcomes in OUT/summary.csv and
    OUT/summary.md. SOURCE is a slide, a folder with all below it, a pattern ("slides/**/*.svs"), or a CSV file with the
    column slide and, where needed, mpp, bundle, name and roi.

    \b
      wsi-magnet batch slides -o results
      wsi-magnet batch cohort.csv -o results --refine 0.2 --workers 4
      wsi-magnet batch "slides/**/*.ndpi" -o results --cluster cluster.yaml
      wsi-magnet batch slides -o results --retry-failed
      wsi-magnet status results

    The same command again skips finished slides and resumes the others; slides that failed need --retry-failed. By
    default the workers are processes of this machine, one for every 8 threads, so that a slide that crashes its reader
    does not end the batch. Exit 1 if any slide failed or has cells that could not be read.
    """
    config = options.make_config(**work)
    execution = options.make_execution(
        device=device, workers=workers, scheduler=scheduler, cluster=cluster, dashboard=dashboard
    )

    from wsi_magnet.cli.main import EXIT_INTERRUPTED, STOPPED
    from wsi_magnet.cli.stopping import stopped_in_order
    from wsi_magnet.cohort.options import CohortOptions
    from wsi_magnet.storage.location import to_location

    cohort_options = CohortOptions(
        to_location(output).absolute(),
        config,
        bundle,
        execution,
        in_flight,
        fail_fast=not skip_errors,
        retry_failed=retry_failed,
        override_mpp=override_mpp,
        existing="overwrite" if overwrite else "restart" if restart else "resume",
    )
    with stopped_in_order(lambda: STOPPED["batch"], EXIT_INTERRUPTED):
        summary = _segment(sources, cohort_options)
    click.echo(json.dumps(_values(summary), indent=2) if as_json else _text(summary))
    if not summary.all_well:
        click.echo(f"Error: {_failures(summary)}", err=True)
        sys.exit(1)


def _segment(sources: Sequence[str], cohort_options: CohortOptions) -> CohortSummary:
    from wsi_magnet.cli.cohort_progress import watching_batch
    from wsi_magnet.cohort.batch import segment_cohort
    from wsi_magnet.cohort.discovery import find_slides

    found = find_slides(sources, cohort_options.out)
    if not found.slides:
        raise click.UsageError(f"no slides: {'; '.join(found.notes) or 'the sources are empty'}")
    with watching_batch(found.notes) as observe:
        return segment_cohort(found.slides, cohort_options, command=cohort_options.command(sources), observe=observe)


def _values(summary: CohortSummary) -> dict[str, Any]:
    from wsi_magnet.schema import to_json

    return {
        "out": str(summary.out),
        "counts": summary.counts,
        "worked_on": summary.worked_on,
        "refused": dict(summary.refused),
        "slides": [to_json(state) for state in summary.states.values()],
    }


def _text(summary: CohortSummary) -> str:
    from wsi_magnet.cli.tables import facts, failures_text
    from wsi_magnet.cohort.paths import SUMMARY_CSV, SUMMARY_MD
    from wsi_magnet.cohort.tables import alarm_lines, counts_text

    done = "Nothing to do.\n\n" if not summary.worked_on else ""
    pairs = [
        ("slides", f"{len(summary.states)}: {counts_text(summary.states.values())}"),
        ("results", summary.out),
        ("summary", summary.out / SUMMARY_CSV),
        ("", summary.out / SUMMARY_MD),
    ]
    failed = [state.failure for state in summary.states.values() if state.failure]
    # The reasons of slides that ended in this batch stand in their lines above.
    failures = failures_text([{**one, "reason": ""} if one["name"] in summary.ended else one for one in failed])
    alarms = "\n".join(f"ALARM, {line}" for line in alarm_lines(summary.states.values()))
    parts = [f"{done}{facts(pairs)}", *([failures] if failed else []), alarms, "Not for diagnosis."]
    return "\n\n".join(part for part in parts if part)


def _failures(summary: CohortSummary) -> str:
    """One line: counts, and the place of the reasons."""
    from wsi_magnet.cohort.paths import SUMMARY_MD
    from wsi_magnet.text import counted

    states = [state.state for state in summary.states.values()]
    kinds = [
        (states.count("failed"), "failed"),
        (states.count("finished with errors"), "finished with cells that could not be read"),
        (len(summary.refused), "refused, with their results unchanged"),
    ]
    counts = ", ".join(f"{count} {kind}" for count, kind in kinds if count)
    return f"of {counted(len(states), 'slide')} {counts}; reasons are above and in {summary.out / SUMMARY_MD}"
