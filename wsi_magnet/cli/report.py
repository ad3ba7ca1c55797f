"""`wsi-magnet report`: results as HTML pages."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report", short_help="Make HTML pages of results.")
@click.argument("results", metavar="RESULT...", nargs=-1, required=True, type=click.Path())
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="report.html",
    show_default=True,
    metavar="HTML",
    help="The page; for several results the index, with a folder of pages beside it.",
)
@click.option(
    "--size",
    type=click.IntRange(200, 6000),
    default=2000,
    show_default=True,
    help="Longest side of the pictures, in pixels.",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier report of that name.")
def command(results: tuple[str, ...], output: Path, size: int, overwrite: bool) -> None:
    """Make an HTML page of RESULT, a slide's result folder: the slide with its mask, uncertainty and what was refined,
    areas, grade and provenance. It needs no network and no other file. Several results also get an index; an output
    folder of `run` or `batch` stands for all results in it, and its index lists the slides that failed, too.

    \b
      wsi-magnet report results/slide -o slide.html
      wsi-magnet report results -o cohort.html
    """
    from wsi_magnet.cohort.reporting import report_sources
    from wsi_magnet.report.write import ReportOptions, write_report
    from wsi_magnet.storage.location import Location, to_location
    from wsi_magnet.text import counted

    found = report_sources(map(to_location, results))

    def notify(result: Location) -> None:
        if len(found.results) > 1:
            click.echo(f"{result} ...", err=True)

    options = ReportOptions(longest_px=size, overwrite=overwrite)
    reported = write_report(found.results, output, options, notify, found.others)
    if found.others:
        click.echo(f"Note: {counted(len(found.others), 'slide')} without a result; the page lists them", err=True)
    for note in reported.notes:
        click.echo(f"Note: {note}", err=True)
    click.echo(reported.files[0])
