"""A list of slides: a CSV file with a row a slide."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from wsi_magnet.cohort.slide_job import SlideJob
from wsi_magnet.dataset.table import Cells, TableKind, read_table
from wsi_magnet.errors import ConfigError, ManifestError
from wsi_magnet.slides.mpp import check_mpp

LIST = TableKind(
    columns=("slide", "mpp", "bundle", "name"),
    aliases={"image": "slide"},
    required=("slide",),
)
"""A manifest of annotated images, whose column is "image", is a list of slides too."""


def read_list(path: Path) -> Iterator[SlideJob]:
    """The slides of a list; paths in it are relative to its folder, and a slide that is not there is a job that fails.

    Raises ManifestError, naming file and row.
    """
    for line, cells in read_table(path, LIST):
        origin = f"{path}, row {line}"
        yield replace(
            SlideJob.of(_path(cells["slide"], "slide", path.parent, origin), origin),
            mpp=_mpp(cells.get("mpp", ""), origin),
            bundle=_bundle(cells, path.parent, origin),
            name=cells.get("name") or None,
            listed_in=str(path),
        )


def _path(text: str, what: str, folder: Path, origin: str) -> Path:
    if not text:
        raise ManifestError(f"{origin}: {what} is empty")
    try:
        path = Path(os.path.normpath(folder / Path(text).expanduser()))
        os.path.realpath(path)
    except (OSError, ValueError, RuntimeError) as error:  # a null byte, a user who is not there
        raise ManifestError(f"{origin}: {what} {text[:80]!r} cannot be a file: {error}") from error
    return path


def _mpp(text: str, origin: str) -> float | None:
    if not text:
        return None
    try:
        return check_mpp(float(text))[0]
    except ConfigError as error:
        raise ManifestError(f"{origin}: {error}") from error
    except ValueError:
        raise ManifestError(f"{origin}: mpp {text!r} is not a number of microns") from None


def _bundle(cells: Cells, folder: Path, origin: str) -> str | None:
    text = cells.get("bundle", "")
    if text in ("", "default"):
        return text or None
    path = _path(text, "bundle", folder, origin)
    if not path.is_file():
        raise ManifestError(f"{origin}: bundle {path} is not there")
    return str(path)
