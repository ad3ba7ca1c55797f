"""Profile of a bundle's training data: the numbers against which a run compares a slide. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from wsi_magnet.schema import Bounds
from wsi_magnet.values import documented

BLOCK_PX = 64
"""Side of the blocks over which features are pooled: small enough for the coarsest scale of a small image, and large
enough to hold a texture."""

Share = Annotated[float, Bounds(0, 1)]


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProfile:
    """Numbers of the rows that a bundle was trained and validated on; empty where they are not known."""

    class_shares: Mapping[str, tuple[Share, Share]] = field(default_factory=dict)
    """Least and most share of each class's pixels in a labelled image, by the class's label value, which stays
    when a class is renamed; without background."""
    uncertainty: tuple[Share, ...] = ()
    """Highest mean uncertainty of a validation view, after each scale, coarse to fine."""
    distances: tuple[Annotated[float, Bounds(0)], ...] = ()
    """Mean distance from the training data of the features of the most unusual held-out image, at each scale; 0 where
    it is not known. Mean and whitening matrix of the features are tensors of the bundle, `profile.mean` (scales,
    features) and `profile.whitening` (scales, features, features)."""
    images: Annotated[int, Bounds(0)] = 0
    """Images that the distances were fitted on."""
