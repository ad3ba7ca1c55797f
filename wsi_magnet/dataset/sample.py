"""One row of a manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

Consensus = Literal["first", "majority", "soft"]
"""Combination of several annotations of one image: the first that labels a pixel (earlier files lie on top), the
majority of those that label it, or one drawn at random for each training crop, whose expected loss is that of the mean
of the labels."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An image or slide and its annotation."""

    row: int
    """Line of the manifest, for errors; the header is line 1."""
    image: Path
    """Absolute."""
    annotations: tuple[Path, ...]
    """Absolute; several where several people annotated the image, or several files are layers."""
    mpp: float | None
    """Microns per pixel at level 0, where the image states none or a wrong one."""
    group: str
    """Unit that is never divided between splits: patient, microarray, or region of overlapping tiles."""
    split: Split
    labels: str = ""
    """The coding, as text; see `annotations.coding`. Empty: labels mean themselves. Codings of several files are
    separated by //, in the files' order."""
    consensus: Consensus = "first"
    site: str = ""
    """Data set or laboratory of the row, in a manifest of several; training draws from all of them alike."""

    @property
    def name(self) -> str:
        """Name in tables."""
        return self.image.stem
