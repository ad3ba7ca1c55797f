"""The training's settings as frozen values, read once from YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Which tiles there are, and what they are for; what is in neither list is trained on."""

    glands_mpp: float
    tumour_mpp: float
    test: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GlassConfig:
    """How often bare glass is pasted into a crop, and how much of it."""

    share: float
    """Of the crops."""
    most: float
    """Of a crop's area; at least a fifth of it."""
    whole_share: float
    """Of the crops with glass, those that are nothing else."""


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """How far a crop may be bent from its tile."""

    scale_jitter: tuple[float, float]
    """Factor on mpp, drawn log-uniformly."""
    coarse_from_mpp: float
    """From here on a crop is so wide that most lumina have their lining in view, and what has none is glass."""
    coarse_glass: GlassConfig
    fine_glass: GlassConfig

    def glass_at(self, mpp: float) -> GlassConfig:
        """What holds for a crop of that resolution."""
        return self.coarse_glass if mpp >= self.coarse_from_mpp else self.fine_glass


@dataclass(frozen=True, slots=True)
class BackboneConfig:
    """Stage 1."""

    width: int
    steps: int
    batch: int
    crop_px: int
    tumour_share: float
    """Share of the crops that come from `rings_tumour`."""
    learning_rate: float
    """The top of the one-cycle schedule."""
    weight_decay: float


@dataclass(frozen=True, slots=True)
class RefinerConfig:
    """Stage 2."""

    steps: int
    crops: int
    """Crops from one augmented tile, at each of the finer scales."""
    crop_px: int
    window_px: int
    """What the backbone sees at the finer scales, in their pixels."""
    tumour_share: float
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Everything that the trained weights depend on, but the tiles and the versions of the libraries."""

    name: str
    seed: int
    mpps: tuple[float, ...]
    data: DataConfig
    augment: AugmentConfig
    backbone: BackboneConfig
    refiners: RefinerConfig


def read_config(path: Path) -> TrainingConfig:
    """Read a YAML file; raises TypeError naming a field that is missing or unknown."""
    raw: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    augment = raw["augment"]
    for key in ("coarse_glass", "fine_glass"):
        augment[key] = GlassConfig(**augment[key])
    parts = {"data": DataConfig, "augment": AugmentConfig, "backbone": BackboneConfig, "refiners": RefinerConfig}
    built = {key: cls(**_tuples(raw.pop(key))) for key, cls in parts.items()}
    return TrainingConfig(**_tuples(raw), **built)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
