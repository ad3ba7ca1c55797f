"""Selection of a slide's reader: each is tried in turn, and the reason of each refusal is kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from wsi_magnet.errors import SlideOpenError
from wsi_magnet.slides.image import open_image
from wsi_magnet.slides.mpp import check_mpp
from wsi_magnet.slides.openslide import open_openslide
from wsi_magnet.slides.slide import Slide
from wsi_magnet.slides.types import SlideReader
from wsi_magnet.values import check

READERS: Mapping[str, Callable[[Path], SlideReader]] = {"openslide": open_openslide, "image": open_image}
"""Readers in the order of trial: OpenSlide first, because it reads pyramids, bounds and vendors' metadata."""


def open_slide(path: str | os.PathLike[str], *, mpp: float | None = None) -> Slide:
    """Open a slide or a plain image. A `Slide` is a context manager, which closes it at the end of its block.

    mpp: microns per pixel at level 0, instead of the file's own. A slide without a resolution can be opened and read;
    `SlideInfo.require_mpp` raises when one is needed. Raises ConfigError for an mpp that no slide can have, and
    SlideOpenError with each reader's reason for a file that is no slide.
    """
    check(str | os.PathLike, path, "path")
    mpp_xy = None if mpp is None else check_mpp(mpp)
    reader = _open(_checked(Path(path)))
    if mpp_xy is not None:
        reader.info = replace(reader.info, mpp_xy=mpp_xy, mpp_source="--mpp", metadata_mpp_xy=reader.info.mpp_xy)
    return Slide(reader)


def _checked(path: Path) -> Path:
    try:
        found = path.exists()
    except (OSError, ValueError) as error:  # a name too long, or with a null byte
        raise SlideOpenError(f"{str(path)[:80]!r}... cannot be a file: {error}") from error
    if not found:
        raise SlideOpenError(f"{path}: no such file")
    if path.is_dir():
        raise SlideOpenError(
            f"{path} is a folder; give a slide (for DICOM, one of the .dcm files in it), or segment all in it with "
            f"`wsi-magnet batch {path} -o OUT`"
        )
    if not path.is_file():
        raise SlideOpenError(f"{path} is no regular file; give a slide")
    if not os.access(path, os.R_OK):
        raise SlideOpenError(f"{path} cannot be read; check its permissions")
    return path.absolute()


def _open(path: Path) -> SlideReader:
    reasons = []
    for name, open_with in READERS.items():
        try:
            reader = open_with(path)
            if not reader.info.canvas.pixels:
                raise SlideOpenError(f"the slide has {reader.info.canvas} pixels")
            return reader
        except SlideOpenError as error:
            reasons.append(f"{name}: {error}")
    raise SlideOpenError(f"{path} cannot be opened as a slide ({'; '.join(reasons)})")
