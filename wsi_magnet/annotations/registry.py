"""Choice of the reader for an annotation file, by its content and not by its name."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from wsi_magnet.annotations.coding import Coding
from wsi_magnet.annotations.dsa import is_dsa, parse_dsa
from wsi_magnet.annotations.geojson import features_of, parse_json
from wsi_magnet.annotations.label_image import LabelImage
from wsi_magnet.annotations.label_pixels import open_picture
from wsi_magnet.annotations.label_zarr import ZarrLabels, is_zarr
from wsi_magnet.annotations.labels import lists_colours
from wsi_magnet.annotations.shapes import Drawn, ShapeAnnotation, moved
from wsi_magnet.annotations.types import Annotation
from wsi_magnet.annotations.xml import ASAP_ROOT, IMAGESCOPE_ROOT, parse_asap, parse_imagescope, parse_xml
from wsi_magnet.errors import AnnotationError
from wsi_magnet.slides.image import JPEG_MAGIC, PNG_MAGIC, TIFF_MAGIC
from wsi_magnet.slides.types import SlideInfo

MOST_BYTES = 2 << 30
"""Limit for a file of drawn regions, uncompressed; no hand-made annotation is larger."""

_GZIP_MAGIC = b"\x1f\x8b"
_PICTURES = (PNG_MAGIC, JPEG_MAGIC, *TIFF_MAGIC)
_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
"""Byte order marks that may precede text."""

KINDS = "a label image (PNG, TIFF, OME-Zarr), QuPath GeoJSON, HistomicsUI JSON, ASAP XML or ImageScope XML"


class CheckedAnnotation(Annotation, Protocol):
    """An annotation whose labels can all be checked."""

    def check(self) -> None:
        """Check every label of the file. Raises AnnotationError for the first unknown one."""
        ...


def open_label_image(path: Path, info: SlideInfo, coding: Coding | None = None) -> LabelImage | None:
    """Open a label image of the slide that `info` describes; None for a file of another kind.

    coding: by default one without classes, with which only stored values can be read. Raises AnnotationError.
    """
    coding = Coding(()) if coding is None else coding
    if is_zarr(path):
        return LabelImage(path, ZarrLabels(path), info, coding)
    magic = _magic(path)
    if not magic.startswith(_PICTURES):
        return None
    return LabelImage(path, open_picture(path, magic, colours=lists_colours(coding)), info, coding)


def read_drawn(path: Path, info: SlideInfo) -> Sequence[Drawn]:
    """Drawn regions of a file, in level-0 pixels from the canvas's corner. Raises AnnotationError, naming the file."""
    try:
        data = _text(path, packed=_magic(path).startswith(_GZIP_MAGIC))
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error
    try:
        return _drawn(data, info)
    except AnnotationError as error:
        raise AnnotationError(f"{path}: {error}") from error


def open_annotation(path: Path, info: SlideInfo, coding: Coding) -> CheckedAnnotation:
    """Open an annotation of the slide that `info` describes.

    Label images are read on demand; drawn regions are read, and their labels looked up, at once. Raises
    AnnotationError, naming the file and the object, for an unreadable file, one that does not fit the slide, and an
    unknown label.
    """
    image = open_label_image(path, info, coding)
    if image is not None:
        return image
    drawn = read_drawn(path, info)
    try:
        return ShapeAnnotation(drawn, info.canvas, coding)
    except AnnotationError as error:
        raise AnnotationError(f"{path}: {error}") from error


def _magic(path: Path) -> bytes:
    """First bytes of a file. Raises AnnotationError."""
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> AnnotationError:
    return AnnotationError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}; give {KINDS}")


def _text(path: Path, *, packed: bool) -> bytes:
    with gzip.open(path) if packed else path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise AnnotationError(f"{path} holds more than {MOST_BYTES >> 30} GiB; give {KINDS}")
    return data


def _drawn(data: bytes, info: SlideInfo) -> Sequence[Drawn]:
    """Regions of a text file, in level-0 pixels from the canvas's corner."""
    start = _start(data)
    if not start:
        raise AnnotationError("it is empty")
    if start in b"{[":
        values = parse_json(data)
        if not is_dsa(values):
            return features_of(values)
        drawn = parse_dsa(values)
    elif start == b"<":
        root = parse_xml(data)
        if root.tag not in (ASAP_ROOT, IMAGESCOPE_ROOT):
            raise AnnotationError(f"it is XML of an unknown kind (<{root.tag}>); give {KINDS}")
        drawn = parse_asap(root) if root.tag == ASAP_ROOT else parse_imagescope(root)
    else:
        raise AnnotationError(f"it is neither {KINDS}")
    return [moved(one, -info.bounds.x0, -info.bounds.y0) for one in drawn]


def _start(data: bytes) -> bytes:
    """First character of a text in any encoding; empty for an empty text."""
    head = data[:1000]
    for mark in _MARKS:
        head = head.removeprefix(mark)
    return head.replace(b"\0", b"").lstrip()[:1]
