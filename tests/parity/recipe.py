"""Deterministic weights for the parity vectors: the same arrays on every machine, without shipping a checkpoint.

``weights(shapes, seed)`` fills a state dict from nothing but its key names, shapes and a seed.
"""

from __future__ import annotations

import json
import zlib
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).parent
HEAD_SCALE: dict[str, dict[str, float]] = {  # keeps the logits of a randomly weighted network within a few units
    "fpn": {"classify.weight": 0.05},
    "psp": {"final.weight": 0.01, "classifier.weight": 0.01},
    "hrnet18+ocr": {"cls_head.weight": 0.02, "aux_head.3.weight": 0.02},
    "refiner": {},
}


def shapes(network: str) -> dict[str, list[int]]:
    """Key -> shape of the published state dict of ``fpn``, ``psp``, ``hrnet18+ocr`` or ``refiner``."""
    found: dict[str, list[int]] = json.loads((HERE / "state_dict_shapes.json").read_text())[network]
    return found


def weights(network: str, seed: int, shapes_of: dict[str, list[int]] | None = None) -> dict[str, npt.NDArray[Any]]:
    """Arrays by key, float32 (int64 zeros for ``num_batches_tracked``)."""
    out: dict[str, npt.NDArray[Any]] = {}
    for key, shape in sorted((shapes_of or shapes(network)).items()):
        rng = np.random.default_rng(zlib.crc32(key.encode()) + seed)
        if key.endswith("num_batches_tracked"):
            out[key] = np.zeros(shape, np.int64)
            continue
        if key.endswith("running_mean"):
            array = rng.normal(0, 0.1, shape)
        elif key.endswith("running_var"):
            array = rng.uniform(0.5, 1.5, shape)
        elif len(shape) == 1 and key.endswith("weight"):
            array = rng.uniform(0.6, 1.0, shape)
        elif len(shape) == 1:
            array = rng.normal(0, 0.05, shape)
        else:
            array = rng.normal(0, sqrt(2 / prod(shape[1:])), shape)
        out[key] = np.asarray(array, np.float32)
    for key, factor in HEAD_SCALE[network].items():
        out[key] = out[key] * np.float32(factor)
    return out
