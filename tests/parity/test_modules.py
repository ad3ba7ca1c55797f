"""Our networks compute what the published ones compute, to 1e-4 of the largest logit, for the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from tests.few import slow_except
from tests.parity.built import N_CLASSES, built

TOLERANCE = 1e-4
VECTORS = Path(__file__).parent / "modules.npz"


def published(name: str) -> npt.NDArray[np.float32]:
    with np.load(VECTORS) as vectors:
        logits: npt.NDArray[np.float32] = vectors[name]
    return logits


def assert_parity(logits: Tensor, expected: npt.NDArray[np.float32]) -> None:
    assert logits.shape == expected.shape
    assert np.abs(logits.numpy() - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("network", slow_except(["fpn"], ["fpn", "psp", "hrnet18+ocr"]))
def test_backbone(network: str) -> None:
    image = np.random.default_rng(3).normal(0, 1, (1, 3, 128, 160)).astype(np.float32)
    with torch.inference_mode():
        logits = built(network, seed=1)(torch.from_numpy(image))
    assert_parity(logits, published(network.replace("+", "_")))


def test_refiner() -> None:
    rng = np.random.default_rng(4)
    fine, coarse = (
        torch.from_numpy(rng.normal(0, spread, (2, N_CLASSES, 64, 80)).astype(np.float32)).softmax(dim=1)
        for spread in (2, 1)
    )
    with torch.inference_mode():
        logits = built("refiner", seed=101)(fine=fine, coarse=coarse)
    assert_parity(logits, published("refiner"))
