"""`wsi-magnet info`: properties of a slide, and the scales at which it would be segmented."""

from __future__ import annotations

import json
from contextlib import closing

import click

from wsi_magnet.cli import options


@click.command("info", short_help="Show a slide's properties.")
@options.slide_argument
@options.bundle_option
@options.mpp_option
@options.json_option
def command(slide: str, bundle: str | None, mpp: float | None, as_json: bool) -> None:
    """Show SLIDE's vendor, size, levels and resolution, and the scales that a run would use.

    \b
      wsi-magnet info slide.svs
      wsi-magnet info mosaic.tif --mpp 0.93 --json
    """
    from wsi_magnet.cli.tables import info_text, scan_date
    from wsi_magnet.errors import ConfigError, MissingMppError
    from wsi_magnet.nets.spec import read_spec
    from wsi_magnet.planning.prepare import ladder_of
    from wsi_magnet.slides.registry import open_slide

    spec, _ = read_spec(bundle)
    with closing(open_slide(slide, mpp=mpp)) as reader:
        info = reader.info
    ladder, refused = None, None
    try:
        ladder = ladder_of(info, spec)
    except (ConfigError, MissingMppError) as error:
        refused = str(error)
    if not as_json:
        click.echo(info_text(info, ladder or f"No scales: {refused}"))
        return
    values = {
        "path": info.path,
        "vendor": info.vendor,
        "reader": info.reader,
        "size_wh": list(info.size.wh),
        "bounds_xywh": [info.bounds.x0, info.bounds.y0, *info.canvas.wh],
        "mpp_xy": info.mpp_xy,
        "mpp_source": info.mpp_source,
        "identity": info.identity,
        "objective_power": info.properties.get("openslide.objective-power"),
        "scan_date": scan_date(info),
        "pictures": list(info.pictures),
        "levels": [{"size_wh": list(v.size.wh), "downsample_xy": list(v.downsample_xy)} for v in info.levels],
        "scales": [
            {"mpp": s.mpp, "size_wh": list(s.size.wh), "downsample_xy": list(s.downsample_xy)}
            for s in (ladder.scales if ladder else ())
        ],
        "scales_left_out_mpp": list(ladder.left_out_mpp) if ladder else [],
        "refused": refused,
    }
    click.echo(json.dumps(values, indent=2))
