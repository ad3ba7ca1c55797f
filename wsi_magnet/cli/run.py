"""`wsi-magnet run`: a slide in, a refined mask out."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from wsi_magnet.cli import options
from wsi_magnet.config import MAGNET


@click.command("run", cls=options.OneSlide, short_help="Segment a slide.")
@options.slide_argument
@click.option(
    "-o", "--output", required=True, type=click.Path(), metavar="OUT", help="Results go to OUT/<slide name>/."
)
@options.bundle_option
@options.work_options
@options.execution_options
@options.dashboard_option
@click.option("--restart", is_flag=True, help="Start this slide over, whatever its result was made with.")
@click.option("--overwrite", is_flag=True, help="Replace whatever lies in the slide's result folder.")
@options.json_option
def command(
    slide: str,
    output: str,
    bundle: str | None,
    device: str,
    workers: int | None,
    scheduler: str | None,
    cluster: str | None,
    dashboard: bool,
    restart: bool,
    overwrite: bool,
    as_json: bool,
    **work: Any,
) -> None:
    """Segment SLIDE from coarse to fine and write its mask to OUT/<slide name>/.

    \b
      wsi-magnet run slide.svs -o results
      wsi-magnet run mosaic.tif -o results --mpp 0.93 --keep probabilities,uncertainty
      wsi-magnet run slide.svs -o results --refine 0.2 --workers 4
      wsi-magnet run slide.svs -o results --cluster cluster.yaml

    Repeating the command resumes a stopped run, and does nothing after a finished one. With other options it is refused
    unless --restart is given. Exit 1 if any part of the slide could not be read.
    """
    config = options.make_config(**work)
    execution = options.make_execution(
        device=device, workers=workers, scheduler=scheduler, cluster=cluster, dashboard=dashboard
    )

    click.echo(_opening(slide, bundle, config.method), err=True)  # before the imports that take seconds

    from wsi_magnet.cli.main import EXIT_INTERRUPTED, NOT_STARTED, STOPPED
    from wsi_magnet.cli.stopping import stopped_in_order
    from wsi_magnet.results.event_log import RunLog
    from wsi_magnet.results.events import Event, ScaleStarted, together
    from wsi_magnet.segment.command_line import run_command
    from wsi_magnet.segment.progress import watching
    from wsi_magnet.segment.slide import result_folder, segment_slide

    about = {"command": run_command(slide, output, config, bundle, execution), "options": config.to_json()}
    started: list[Event] = []

    def note_start(event: Event) -> None:
        if isinstance(event, ScaleStarted):
            started.append(event)

    def message() -> str:
        return STOPPED["run"] if started or not (restart or overwrite) else NOT_STARTED

    with (
        stopped_in_order(message, EXIT_INTERRUPTED),
        watching() as observe,
        RunLog(result_folder(slide, output), about) as log,
    ):
        summary = segment_slide(
            slide,
            output,
            bundle=bundle,
            config=config,
            execution=execution,
            existing="overwrite" if overwrite else "restart" if restart else "resume",
            observe=together(log, observe, note_start),
        )
        log.finished(summary)
    if as_json:
        values = {"folder": str(summary.folder), "done_before": summary.done_before, "failures": summary.failures}
        click.echo(json.dumps({**values, **summary.summary}, indent=2))
    else:
        from wsi_magnet.cli.tables import run_text

        click.echo(run_text(summary))
    if summary.failures:
        from wsi_magnet.cli.tables import unreadable_text

        click.echo(f"Error: {slide}: {unreadable_text(summary)}", err=True)
        sys.exit(1)


def _opening(slide: str, bundle: str | None, method: str) -> str:
    """The slide, the method, and the bundle with its classes, its scales and its purpose. Raises BundleError."""
    from pathlib import Path

    from wsi_magnet.nets.spec import read_spec

    spec, _ = read_spec(bundle)
    about = f"{', '.join(one.name for one in spec.classes)}; {', '.join(f'{mpp:g}' for mpp in spec.mpps)} µm/px"
    purpose = spec.card.get("intended use", "").partition(";")[0].strip()
    by = "" if method == MAGNET else f", method {method}"
    made_for = f", made for {purpose}" if purpose else ""
    return f"Opening {Path(slide).name} with bundle {spec.name} ({about}){made_for}{by}"
