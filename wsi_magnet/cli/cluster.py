"""`wsi-magnet cluster`: show what a run with --cluster would submit."""

from __future__ import annotations

import click


@click.command("cluster", short_help="Show the cluster that a run would start.")
@click.argument("file", type=click.Path(), metavar="FILE.yaml")
def command(file: str) -> None:
    """Show what `run --cluster FILE.yaml` would submit for each worker.

    \b
      wsi-magnet cluster cluster.yaml
      wsi-magnet cluster cluster.yaml | sbatch --test-only

    The plan of the workers goes to stderr. Nothing is submitted.
    """
    from wsi_magnet.runtime.clusters.cluster import plan, show
    from wsi_magnet.runtime.clusters.spec import read_cluster

    spec = read_cluster(file)
    click.echo(show(spec))
    click.echo(plan(spec), err=True)
