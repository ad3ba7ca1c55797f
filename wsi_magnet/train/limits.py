"""What the settings of a training may be, by name: words to choose from, least and most."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from wsi_magnet.errors import ConfigError
from wsi_magnet.nets.spec import MOST_HALO_PX, MOST_MEDIAN_PX

CHOICES = {
    "optimizer": ("adamw", "sgd"),
    "schedule": ("one_cycle", "poly", "steps"),
    "loss": ("cross_entropy", "ohem"),
    "input": ("cumulative", "published"),
    "module": ("magnet", "light"),
    "select": ("hard", "soft"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
}
"""Words that a setting of that name may be."""

RANGES: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("steps", "validate_every", "patience", "checkpoint_every"), (1, inf)),
    **dict.fromkeys(("crops", "ohem_kept", "validation_views"), (1, inf)),
    **dict.fromkeys(("weight_decay", "clip", "auxiliary"), (0, inf)),
    **dict.fromkeys(("momentum", "blur", "jpeg", "class_balance", "keep_from"), (0, 1)),
    **dict.fromkeys(("stain", "light", "class_weight"), (0, 2)),
    "learning_rate": (1e-9, 100),
    "statistics_momentum": (1e-4, 1),
    "average": (0, 0.9999),
    "ohem_below": (0.01, 1),
    # No memory holds more; a slip of the pen is told before the data are read.
    "batch": (1, 4096),
    "crop_px": (8, 8192),
    "window_px": (8, 8192),
    "scale_jitter": (1, 4),
    "rotation": (0, 45),
    "seed": (0, 2**32 - 1),
    "halo_px": (0, MOST_HALO_PX),
    "median_px": (1, MOST_MEDIAN_PX),
}
"""Least and most that a setting of that name may be."""


def check_settings(prefix: str, part: object) -> None:
    """Raises ConfigError for a setting that is outside its range or none of its words."""
    for name, words in CHOICES.items():
        word = getattr(part, name, words[0])
        if word not in words:
            raise ConfigError(f"{prefix}{name} {word!r} is none of {', '.join(words)}")
    for name, (low, high) in RANGES.items():
        value = getattr(part, name, low)
        if not low <= value <= high:
            wanted = f"at least {low:g}" if high == inf else f"between {low:g} and {high:g}"
            raise ConfigError(f"{prefix}{name} {value:g} is not {wanted}")
