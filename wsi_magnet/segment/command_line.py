"""Command lines, as text for a shell, that ask for the same run again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsi_magnet.config import MAGNET, Execution, RunConfig
from wsi_magnet.nets.spec import bundle_path
from wsi_magnet.storage.location import to_location

DEFAULT_REFINE = RunConfig().refine

_FLAGS: dict[str, tuple[str, Any]] = {
    "mpp": ("--mpp", None),
    "method": ("--method", MAGNET),
    "refine": ("--refine", DEFAULT_REFINE),
    "tile_px": ("--tile", 1024),
    "ngff": ("--ngff", "0.4"),
    "batch_size": ("--batch-size", None),
    "precision": ("--precision", "auto"),
}
"""Option and default of each value of a configuration."""


def run_command(slide: str, output: str, config: RunConfig, bundle: str | None, execution: Execution) -> str:
    """The command that resumes a run of one slide, from any working folder."""
    slide = str(Path(slide).expanduser().absolute())
    words = ["wsi-magnet", "run", slide, "-o", str(to_location(output).absolute())]
    return shlex.join([*words, *work_words(config, bundle), *execution_words(execution)])


def work_words(config: RunConfig, bundle: str | None) -> Iterator[str]:
    """Yield the options for a configuration and a bundle, with absolute paths; defaults are left out."""
    if bundle is not None:
        yield from ("--bundle", bundle if bundle == "default" else str(bundle_path(bundle).absolute()))
    values = config.to_json()
    for name, (flag, default) in _FLAGS.items():
        if values[name] != default:
            yield from (flag, str(values[name]))
    if not config.tissue:
        yield "--no-tissue"
    for name, path in config.area_files.items():
        yield from (f"--{name.replace('_', '-')}", path)
    if config.roi_classes:
        yield from ("--roi-classes", ",".join(config.roi_classes))
    if config.kept:
        yield from ("--keep", ",".join(config.kept))


def with_recorded_refine(command: str, refine: object) -> str:
    """A recorded command with the `--refine` of its run, where it left a default out that has changed since 0.1.0."""
    if refine == DEFAULT_REFINE or "--refine" in shlex.split(command):
        return command
    return f"{command} --refine {refine}"


def execution_words(execution: Execution) -> Iterator[str]:
    """Yield the options for the same workers; defaults are left out."""
    if execution.device != "auto":
        yield from ("--device", execution.device)
    if execution.workers is not None:
        yield from ("--workers", str(execution.workers))
    if execution.scheduler is not None:
        yield from ("--scheduler", execution.scheduler)
    if execution.cluster is not None:
        yield from ("--cluster", str(Path(execution.cluster).expanduser().absolute()))
    if execution.dashboard:
        yield "--dashboard"
