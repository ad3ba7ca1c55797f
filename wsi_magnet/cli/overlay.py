"""`wsi-magnet overlay`: a picture of a result."""

from __future__ import annotations

import io

import click

from wsi_magnet.errors import ConfigError


@click.command("overlay", short_help="Draw a result over its slide.")
@click.argument("result", type=click.Path())
@click.option("-o", "--output", type=click.Path(), metavar="PNG", help="[default: overlay.png in the result folder]")
@click.option("--size", type=click.IntRange(100, 8000), default=2000, show_default=True, help="Longest side in pixels.")
@click.option("--opacity", type=click.FloatRange(0, 1), default=0.35, show_default=True, help="Opacity of the colours.")
def command(result: str, output: str | None, size: int, opacity: float) -> None:
    """Draw the mask of RESULT, a slide's result folder, over its tissue, with a legend, as a PNG or JPEG.

    \b
      wsi-magnet overlay results/slide
    """
    from wsi_magnet.report.overlay import OverlayStyle, draw_overlay
    from wsi_magnet.storage.errors import storage_errors
    from wsi_magnet.storage.location import replace_bytes, to_location

    folder = to_location(result)
    target = to_location(output) if output else folder / "overlay.png"
    if target.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ConfigError(f"{target} has no suffix of a picture; name it .png or .jpg")
    picture = draw_overlay(folder, OverlayStyle(longest_px=size, opacity=opacity))
    encoded = io.BytesIO()
    picture.save(encoded, "PNG" if target.suffix.lower() == ".png" else "JPEG")
    with storage_errors(target):
        replace_bytes(target, encoded.getvalue())
    click.echo(target)
