"""One row of a manifest as a frozen value, and what opens it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

Consensus = Literal["first", "majority", "soft"]
"""What several annotations of one image are together: the first that labels a pixel (a stated order: earlier files lie
on top), the set most of them give it, or one drawn at random for each training crop, whose expected loss is that of
the mean of their labels."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An image or slide and its annotation."""

    row: int
    """Line of the manifest, the header being line 1: what an error names."""
    image: Path
    """Absolute."""
    annotations: tuple[Path, ...]
    """Absolute; several where several people annotated the same image, or several files lie over one another."""
    mpp: float | None
    """Microns per pixel at level 0, where the image does not say or says it wrongly."""
    group: str
    """Patient, microarray, or region of tiles that overlap: what may never be parted between splits."""
    split: Split
    labels: str = ""
    """The coding, as text; see `annotations.coding`. Empty: labels mean themselves. Where each file has its own, they
    stand in the files' order with // between them."""
    consensus: Consensus = "first"

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.image.stem
