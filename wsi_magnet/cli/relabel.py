"""`wsi-magnet relabel`: other names and colours for the classes of finished results."""

from __future__ import annotations

import click

from wsi_magnet.cli import options


@click.command("relabel", short_help="Rename or recolour the classes of results.")
@click.argument("results", metavar="RESULT...", nargs=-1, required=True, type=click.Path())
@options.class_options
@click.option("--bundle", metavar="FILE", help="Take names and colours from this bundle.")
def command(results: tuple[str, ...], renames: tuple[str, ...], colors: tuple[str, ...], bundle: str | None) -> None:
    """Give the classes of RESULT, a slide's result folder or an output folder with several, other names and colours.
    Nothing is computed: values and pixels stay. If it is killed, the same command completes it.

    \b
      wsi-magnet relabel results/slide --rename "stroma=Stroma" --color "gland=#1f77b4"
      wsi-magnet relabel results --bundle edited.safetensors

    Overlays, reports and exports made before keep the old names; make them again.
    """
    changes = options.make_class_changes(renames, colors)
    if bool(bundle) == bool(renames or colors):
        raise click.UsageError("give --rename and --color, or --bundle")

    from wsi_magnet.cohort.paths import result_folders
    from wsi_magnet.nets.spec import read_spec
    from wsi_magnet.results.relabel import classes_with, relabel, require_relabelable
    from wsi_magnet.storage.location import to_location

    of_bundle = tuple(one.label for one in read_spec(bundle)[0].classes) if bundle else None
    folders = [folder for named in results for folder in result_folders(to_location(named))]
    wanted = [(folder, of_bundle or classes_with(changes, folder)) for folder in folders]
    for folder, classes in wanted:  # all, before the first is changed
        require_relabelable(folder, classes)
    for folder, classes in wanted:
        relabel(folder, classes)
        click.echo(f"{folder}: {', '.join(one.name for one in classes)}")
