"""`wsi-magnet plan`: the work, cost and time of a run."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from wsi_magnet.cli import options

if TYPE_CHECKING:
    from wsi_magnet.planning.estimate import Cost, Timing
    from wsi_magnet.planning.prepare import PreparedRun


@click.command("plan", cls=options.OneSlide, short_help="Show the work, cost and time of a run.")
@options.slide_argument
@click.option("-o", "--output", type=click.Path(), metavar="OUT", help="Ignored, as are --restart and --overwrite.")
@options.bundle_option
@options.work_options
@options.execution_options
@options.dashboard_option
@click.option("--restart", is_flag=True, hidden=True)
@click.option("--overwrite", is_flag=True, hidden=True)
@click.option("--no-time", is_flag=True, help="Leave out the time, for which a few patches are read and segmented.")
@options.json_option
def command(
    slide: str,
    output: str | None,
    bundle: str | None,
    device: str,
    workers: int | None,
    scheduler: str | None,
    cluster: str | None,
    dashboard: bool,
    restart: bool,
    overwrite: bool,
    no_time: bool,
    as_json: bool,
    **work: Any,
) -> None:
    """Show the tiles, patches, bytes, memory, disk and time of a run of SLIDE, for each scale. It takes the options of
    `run`; nothing is written. The time is an estimate from a few patches that this machine reads and segments now.

    \b
      wsi-magnet plan slide.svs
      wsi-magnet plan slide.svs -o results --refine 0.2 --workers 4
      wsi-magnet plan slide.svs --no-time --json
    """
    del output, restart, overwrite
    config = options.make_config(**work)
    execution = options.make_execution(
        device=device, workers=workers, scheduler=scheduler, cluster=cluster, dashboard=dashboard
    )

    from wsi_magnet.cli.tables import plan_text
    from wsi_magnet.nets.spec import bundle_path, read_spec
    from wsi_magnet.planning.estimate import estimate, time_of
    from wsi_magnet.planning.prepare import prepare
    from wsi_magnet.segment.areas import read_areas
    from wsi_magnet.slides.registry import open_slide
    from wsi_magnet.system import cpu_threads

    spec, _ = read_spec(bundle)
    with closing(open_slide(slide, mpp=config.mpp)) as reader:
        prepared = prepare(reader, spec, config, read_areas(config, reader.info))
        speed = None
        if not no_time and scheduler is None and cluster is None:
            from wsi_magnet.worker.speed import measure_speed  # with torch

            speed = measure_speed(reader, prepared, bundle, execution)
    threads = speed.threads if speed else cpu_threads()
    cost = estimate(
        prepared.plan,
        prepared.info,
        prepared.spec.network,
        classes=len(prepared.spec.classes),
        refine=config.refine,
        method=config.method,
        threads=max(1, threads // (workers or 1)),
        batch=config.batch_size or 1,
        weight_bytes=bundle_path(bundle).stat().st_size,
    )
    timing = None if speed is None else time_of(cost, speed, config.refine)
    if as_json:
        click.echo(json.dumps(_values(prepared, cost, timing), indent=2))
    else:
        click.echo(plan_text(prepared, cost, timing))
        if timing is None and not no_time:
            click.echo("Note: no time is given, since workers elsewhere do the work", err=True)


def _values(prepared: PreparedRun, cost: Cost, timing: Timing | None) -> dict[str, Any]:
    scales = [asdict(one) for one in cost.scales]
    if timing is not None:
        scales = [{**one, "seconds": asdict(two)} for one, two in zip(scales, timing.scales, strict=True)]
    return {
        "scales": scales,
        "total": cost.total,
        "time": None
        if timing is None
        else {
            "seconds": asdict(timing.total),
            "threads": timing.speed.threads,
            "device": timing.speed.device,
            "measured_s": timing.speed.measured_s,
        },
        "memory_bytes": cost.memory_bytes,
        "disk_bytes": cost.disk_bytes,
        "tissue_share": prepared.plan.tissue_share,
        "notes": prepared.notes,
    }
