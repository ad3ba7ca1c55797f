"""Convolution, batch normalisation and ReLU as one: what networks are made of, and what a device may do in one go."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn
from torch.nn import functional as F


@runtime_checkable
class Fused(Protocol):
    """A convolution, its normalisation folded into it, that can do what comes after it as well."""

    def with_relu(self, x: Tensor) -> Tensor:
        """relu(convolution(x))."""
        ...

    def with_sum(self, x: Tensor, kept: Tensor) -> Tensor:
        """relu(convolution(x) + kept)."""
        ...


def conv_relu(convolution: nn.Module, normalisation: nn.Module, x: Tensor) -> Tensor:
    """relu(normalisation(convolution(x)))."""
    if isinstance(convolution, Fused):
        return convolution.with_relu(x)
    return F.relu_(normalisation(convolution(x)))


def conv_sum_relu(convolution: nn.Module, normalisation: nn.Module, x: Tensor, kept: Tensor) -> Tensor:
    """relu(normalisation(convolution(x)) + kept), the end of a residual block."""
    if isinstance(convolution, Fused):
        return convolution.with_sum(x, kept)
    return F.relu_(normalisation(convolution(x)).add_(kept))
