"""`wsi-magnet plan`: the work and cost of a run, without computing anything."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from typing import Any

import click

from wsi_magnet.cli import options


@click.command("plan", cls=options.OneSlide, short_help="Show the work and cost of a run.")
@options.slide_argument
@options.bundle_option
@options.work_options
@options.json_option
def command(slide: str, bundle: str | None, as_json: bool, **work: Any) -> None:
    """Show the tiles, patches, bytes, memory and disk of a run of SLIDE, for each scale; nothing is computed.

    \b
      wsi-magnet plan slide.svs
      wsi-magnet plan slide.svs --refine 0.2 --json
    """
    config = options.make_config(**work)

    from wsi_magnet.cli.tables import plan_text
    from wsi_magnet.nets.spec import read_spec
    from wsi_magnet.planning.estimate import estimate
    from wsi_magnet.planning.prepare import prepare
    from wsi_magnet.slides.registry import open_slide
    from wsi_magnet.system import cpu_threads

    spec, _ = read_spec(bundle)
    with closing(open_slide(slide, mpp=config.mpp)) as reader:
        prepared = prepare(reader, spec, config)
    cost = estimate(
        prepared.plan,
        prepared.info,
        spec.network,
        classes=len(spec.classes),
        refine=config.refine,
        threads=cpu_threads(),
        batch=config.batch_size or 1,
    )
    if as_json:
        values = {
            "scales": [asdict(one) for one in cost.scales],
            "memory_bytes": cost.memory_bytes,
            "disk_bytes": cost.disk_bytes,
            "tissue_share": prepared.plan.tissue_share,
            "notes": prepared.notes,
        }
        click.echo(json.dumps(values, indent=2))
    else:
        click.echo(plan_text(prepared, cost))
