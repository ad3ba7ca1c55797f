"""STAPLE: one mask from those of several people, each weighted by agreement with the others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import PngImagePlugin

from wsi_magnet.annotations.coding import IGNORE_VALUE
from wsi_magnet.annotations.label_pixels import decoding, open_picture
from wsi_magnet.errors import AnnotationError, ConfigError
from wsi_magnet.geometry import Box
from wsi_magnet.storage.atomic import atomic_file
from wsi_magnet.storage.errors import storage_errors

Labels = npt.NDArray[np.uint8]
"""uint8 (height, width)."""

MOST_ITERATIONS = 50
"""Limit of the expectation maximisation, which usually converges within ten."""

_INPUTS = "wsi-magnet inputs"  # PNG text with the hash of the inputs


def staple(maps: Sequence[Labels]) -> Labels:
    """Merge maps of one shape; 255 where undecided.

    maps: uint8 (height, width) each, one per person. A value for "not labelled" is a label like the others: a pixel
    that most people left unlabelled stays so. Raises AnnotationError for different shapes and ConfigError without
    SimpleITK.
    """
    shapes = {one.shape for one in maps}
    if len(shapes) != 1:
        raise AnnotationError(
            f"maps of {' and '.join(f'{w} x {h}' for h, w in sorted(shapes))} pixels are not of one image"
        )
    if all(np.array_equal(maps[0], one) for one in maps[1:]):
        return maps[0].copy()
    try:
        import SimpleITK
    except ImportError as error:
        raise ConfigError("STAPLE needs SimpleITK: pip install '.[staple]' in wsi-magnet's checkout") from error
    toolkit: Any = SimpleITK  # untyped
    method = toolkit.MultiLabelSTAPLEImageFilter()
    method.SetLabelForUndecidedPixels(IGNORE_VALUE)
    method.SetMaximumNumberOfIterations(MOST_ITERATIONS)
    joined = method.Execute([toolkit.GetImageFromArray(one) for one in maps])
    return np.asarray(toolkit.GetArrayFromImage(joined), np.uint8)


def write_staple(paths: Sequence[Path], labels: str, target: Path) -> None:
    """Write the STAPLE mask of several mask files as a PNG of the same values, unless it exists already.

    labels: their coding; values of equal meaning count as one, the first of them. Raises AnnotationError for a file
    that is not a mask of values, and StoreError.
    """
    inputs_hash = _hash(paths, labels)
    if _inputs_hash(target) == inputs_hash:
        return
    merged = staple([_read(path, _same_meaning(labels)) for path in paths])
    info = PngImagePlugin.PngInfo()
    info.add_text(_INPUTS, inputs_hash)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as file:
            Pillow.fromarray(merged).save(file, format="PNG", pnginfo=info)


def _same_meaning(labels: str) -> dict[int, int]:
    """Replacements of values of equal meaning: {6: 1} for "1=0|1; 6=0|1"."""
    pairs = [tuple(part.strip() for part in piece.split("=")) for piece in labels.split(";") if "=" in piece]
    by_value = {int(label): meaning for label, meaning in pairs if label.isdecimal()}
    first = {meaning: value for value, meaning in reversed(by_value.items())}
    return {value: first[meaning] for value, meaning in by_value.items() if first[meaning] != value}


def _read(path: Path, replaced: dict[int, int]) -> Labels:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise AnnotationError(f"{path}: {error.strerror or error}") from error
    pixels = open_picture(path, magic, colours=False)
    with closing(pixels), decoding(path):
        values = pixels.codes(pixels.read(Box.of(pixels.size)))
    if values.max() > IGNORE_VALUE:
        raise AnnotationError(f"{path} is not a mask of one byte per pixel; STAPLE needs values, not colours")
    table = np.arange(256, dtype=np.uint8)
    table[list(replaced)] = list(replaced.values())
    return table[values]


def _hash(paths: Sequence[Path], labels: str) -> str:
    digest = hashlib.sha256(labels.encode())
    for path in paths:
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise AnnotationError(f"{path}: {error.strerror or error}") from error
    return digest.hexdigest()


def _inputs_hash(target: Path) -> str | None:
    """Hash of the inputs of an existing file; None without one, or if it is damaged."""
    try:
        with Pillow.open(target) as picture:
            picture.load()
            found = picture.info.get(_INPUTS)
    except (OSError, SyntaxError):
        return None
    return found if isinstance(found, str) else None
