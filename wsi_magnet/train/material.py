"""What both stages are given: where to draw from, and what they are judged on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from wsi_magnet.dataset.open_sample import SamplePool
from wsi_magnet.train.sampler import Drawer
from wsi_magnet.train.views import View, Windows


@dataclass(frozen=True, eq=False)
class Material:
    """Training and validation rows, ready to be read."""

    pool: SamplePool
    drawer: Drawer
    """Of the training rows."""
    weights: Tensor | None
    """float32 (C,): of each class's pixels in the loss; None where all weigh the same."""
    views: tuple[View, ...]
    """Of the validation rows."""
    windows: Windows
    """Of these views."""
    part_of: tuple[int, ...]
    """For each class the part that the labels tell apart, as `annotations.partition` gives it."""
