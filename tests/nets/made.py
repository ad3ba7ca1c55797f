"""Tiny bundles for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from wsi_magnet.nets.registry import build_network, build_refiner
from wsi_magnet.nets.spec import BundleSpec, ClassInfo

CLASSES = (
    ClassInfo("background", 0, (255, 255, 255)),
    ClassInfo("stroma", 1, (0, 200, 0)),
    ClassInfo("other", 7, (200, 0, 0)),
)


def small_spec(**changes: Any) -> BundleSpec:
    """Three classes, three scales, two refiners."""
    values: dict[str, Any] = {
        "name": "tiny",
        "network": "small",
        "network_args": {"width": 2},
        "classes": CLASSES,
        "mpps": (4.0, 2.0, 1.0),
        "refiner_of": (0, 1),
        "select_above": (0.1, 0.2),
        "refine_above": (0.3, 0.4),
        "temperature": (1.0, 1.5, 2.0),
        "card": {"licence": "none", "not for": "anything"},
    }
    return BundleSpec(**{**values, **changes})


def networks_of(spec: BundleSpec, seed: int = 0) -> tuple[nn.Module, list[nn.Module]]:
    """Randomly weighted."""
    torch.manual_seed(seed)
    classes = len(spec.classes)
    return (
        build_network(spec.network, classes, **spec.network_args),
        [build_refiner(spec.refiner, classes) for _ in range(spec.n_refiners)],
    )
