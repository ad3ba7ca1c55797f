"""Ground truth: annotated slides, and the classes that their labels distinguish."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from wsi_magnet.annotations.partition import partition
from wsi_magnet.annotations.types import Sets, full_set
from wsi_magnet.dataset.sample import Sample
from wsi_magnet.errors import ManifestError
from wsi_magnet.geometry import Box
from wsi_magnet.nets.spec import ClassInfo
from wsi_magnet.scales import Scale
from wsi_magnet.slides.types import SlideReader

BLOCK_PX = 1024
"""Side of the blocks in which maps are read and compared, so that memory does not depend on the slide's size."""


class OpenTruth(Protocol):
    """An open row of a manifest."""

    @property
    def reader(self) -> SlideReader:
        """The slide."""
        ...

    def scale(self, mpp: float) -> Scale:
        """Scale of that mpp."""
        ...

    def sets(self, scale: Scale, box: Box) -> Sets:
        """Label sets of a box of that scale's grid, uint32 (box height, box width); the full set is unlabelled."""
        ...

    def close(self) -> None:
        """Release the files."""
        ...


Opener = Callable[[Sample, Sequence[ClassInfo]], OpenTruth]
"""Opens a sample in terms of a bundle's classes."""


@dataclass(frozen=True, slots=True)
class Target:
    """The scored classes: those of the bundle, joined where labels do not distinguish them."""

    part_of: tuple[int, ...]
    """The scored class of each of the bundle's classes."""
    names: tuple[str, ...]
    """Names of the scored classes, ordered by their lowest label value, which is the order of quadratic kappa."""
    colors: tuple[tuple[int, int, int], ...]

    def __len__(self) -> int:
        return len(self.names)


def make_target(label_sets: Iterable[int], classes: Sequence[ClassInfo]) -> Target:
    """Join classes that share a label set; a class in no set stays separate, and pixels predicted as it are errors.

    label_sets: all that occur in the scored images. Raises ManifestError where they distinguish no two classes.
    """
    unknown = full_set(len(classes))
    sets = sorted({one for one in label_sets if one and one != unknown})
    if not sets:
        raise ManifestError("no pixel is labelled in the images to score; check their annotation and labels columns")
    parts = partition(sets, len(classes))
    members = sorted(
        ([i for i in range(len(classes)) if parts[i] == part] for part in set(parts)),
        key=lambda own: min(classes[i].value for i in own),
    )
    own_lists = [sorted(own, key=lambda i: classes[i].value) for own in members]
    part_of = tuple(next(k for k, own in enumerate(own_lists) if i in own) for i in range(len(classes)))
    names = tuple("/".join(classes[i].name for i in own) for own in own_lists)
    labelled = {part_of[one.bit_length() - 1] for one in sets}
    if len(labelled) < 2:
        only = names[labelled.pop()]
        raise ManifestError(f"the labels have one class only, {only}; scoring needs a second labelled class")
    return Target(part_of, names, tuple(classes[own[0]].color for own in own_lists))


def label_sets(truth: OpenTruth, scale: Scale) -> set[int]:
    """Every label set that occurs on a slide at that scale."""
    found: set[int] = set()
    for box in blocks(scale):
        found.update(np.unique(truth.sets(scale, box)).tolist())
    return found


def blocks(scale: Scale) -> Iterator[Box]:
    """Blocks that cover a scale's grid, each pixel once, row by row."""
    return scale.grid.squares(BLOCK_PX)
