"""The interface of annotations: for each pixel a label set, the classes that it may be.

A label often names more than one class: "gland" may be benign or tumour, "benign tissue" stroma or epithelium. So
a label is a set; an unlabelled pixel may be any class, so it has the full set.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from wsi_magnet.geometry import Box
from wsi_magnet.scales import Scale

Sets = npt.NDArray[np.uint32]
"""uint32 (height, width): bit i is set where class i, by its place in the list of classes, is possible."""

MOST_CLASSES = 31
"""One bit each and none for the sign, so that torch's int32 holds them too."""


def full_set(n_classes: int) -> int:
    """The set of an unlabelled pixel: all classes are possible."""
    return (1 << n_classes) - 1


class Annotation(Protocol):
    """An open annotation of one slide. Reading is safe from several threads at once."""

    n_classes: int

    def read(self, scale: Scale, box: Box) -> Sets:
        """Label sets of a rectangle of a scale's grid, taken at the pixels' centres.

        box: in pixels of `scale` from the canvas's corner; beyond the canvas nothing is labelled. Returns uint32
        (box height, box width). Raises AnnotationError for an unknown label.
        """
        ...

    def close(self) -> None:
        """Release the file."""
        ...
