"""Losses for label sets: minus the log of the summed probability of the classes in the set.

N: batch, C: classes, H, W: size. Sets are int32, a bit a class; the full set is not labelled.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F


def allowed_classes(sets: Tensor, n_classes: int) -> Tensor:
    """int32 (N, H, W) of bits to bool (N, C, H, W)."""
    bits = torch.arange(n_classes, dtype=torch.int32, device=sets.device).view(1, -1, 1, 1)
    return (sets.unsqueeze(1) >> bits) & 1 > 0


def single_labels(sets: Tensor, n_classes: int) -> Tensor:
    """The class of each pixel, int64 (N, H, W); -1 where several are allowed. sets: int32 (N, H, W)."""
    allowed = allowed_classes(sets, n_classes)
    return torch.where(allowed.sum(dim=1) == 1, allowed.to(torch.uint8).argmax(dim=1), -1)


def set_loss(logits: Tensor, sets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of -log(sum of the probabilities allowed) over the labelled pixels.

    logits: float (N, C, H, W); sets: int32 (N, H, W); weights: float (C,), of each class's pixels, a set having the
    mean of its classes'. Returns a float32 scalar, 0 without labels.
    """
    allowed = allowed_classes(sets, logits.shape[1])
    return weighted_mean(_surprise(logits, allowed), allowed, weights)


def _surprise(logits: Tensor, allowed: Tensor) -> Tensor:
    """-log(sum of the probabilities allowed), float32 (N, H, W)."""
    logits = logits.float()
    return logits.logsumexp(dim=1) - logits.masked_fill(~allowed, float("-inf")).logsumexp(dim=1)


def guided_loss(logits: Tensor, sets: Tensor, guide: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy with `guide`, restricted to the allowed classes; with the class itself where one is allowed.

    `set_loss` leaves the choice among several allowed classes open, and a refinement module, which sees no picture,
    would choose at random. guide: probabilities, float (N, C, H, W); the rest as there.
    """
    allowed = allowed_classes(sets, logits.shape[1])
    target = (guide + 1e-3) * allowed
    target = target / target.sum(dim=1, keepdim=True).clamp(min=1e-9)
    loss = -(target * logits.float().log_softmax(dim=1)).sum(dim=1)
    return weighted_mean(loss, allowed, weights)


def choice_loss(choice: Tensor, sets: Tensor, *, fine: Tensor, coarse: Tensor) -> Tensor:
    """Cross-entropy of a choice between two maps, over the pixels at which exactly one of them is right.

    choice: logit of taking `fine`, float (N, 1, H, W); sets: int32 (N, H, W); fine, coarse: probabilities, float
    (N, C, H, W) each, right where their likeliest class is in the set. Returns a float32 scalar, 0 without such pixels.
    """
    allowed = allowed_classes(sets, fine.shape[1])
    fine_right, coarse_right = (allowed.gather(1, one.argmax(dim=1, keepdim=True)) for one in (fine, coarse))
    loss = F.binary_cross_entropy_with_logits(choice.float(), fine_right.float(), reduction="none")
    decisive = fine_right != coarse_right
    return torch.where(decisive, loss, 0.0).sum() / decisive.sum().clamp(min=1)


def hard_loss(logits: Tensor, sets: Tensor, *, below: float, kept: int) -> Tensor:
    """`set_loss` over the hard pixels alone, as the published refiners learn (online hard example mining).

    Pixels count whose truth has a probability under `below`, and of all labelled pixels the `kept` hardest at least.
    """
    allowed = allowed_classes(sets, logits.shape[1])
    loss = _surprise(logits, allowed)[_labelled(allowed)]
    if loss.numel() == 0:
        return logits.float().sum() * 0  # nothing labelled, nothing to learn; the published program fails here
    kth = loss.detach().topk(min(kept, loss.numel())).values[-1]
    limit = torch.minimum(kth, loss.new_tensor(-np.log(below)))
    return loss[loss.detach() >= limit].mean()


def focal_loss(logits: Tensor, sets: Tensor, gamma: float, weights: Tensor | None = None) -> Tensor:
    """`set_loss` with a factor (1 - p) ** gamma, p: the summed probability allowed (Lin et al., ICCV 2017, eq. 4)."""
    allowed = allowed_classes(sets, logits.shape[1])
    loss = _surprise(logits, allowed)
    return weighted_mean(loss * (-torch.expm1(-loss)).clamp(min=0) ** gamma, allowed, weights)


def weighted_mean(loss: Tensor, allowed: Tensor, weights: Tensor | None) -> Tensor:
    """Mean over the labelled pixels, weighed by class. loss: (N, H, W); allowed: bool (N, C, H, W)."""
    counted = pixel_weights(allowed, weights)
    return (torch.where(counted > 0, loss, 0.0) * counted).sum() / counted.sum().clamp(min=1e-9)


def pixel_weights(allowed: Tensor, weights: Tensor | None) -> Tensor:
    """Weights of the pixels in `weighted_mean`, float32 (N, H, W), 0 where not labelled."""
    counted = _labelled(allowed).float()
    if weights is None:
        return counted
    return counted * ((allowed * weights.view(1, -1, 1, 1)).sum(dim=1) / allowed.sum(dim=1).clamp(min=1))


def _labelled(allowed: Tensor) -> Tensor:
    """Bool (N, H, W)."""
    return ~allowed.all(dim=1)


def class_weights(pixels: npt.NDArray[np.float64], power: float) -> npt.NDArray[np.float32] | None:
    """Weights of the classes' pixels, these to minus `power`, 1 on average over the pixels; None for power 0.

    pixels: float64 (C,), labelled pixels of each class; a class without any has weight 0.
    """
    if power == 0:
        return None
    present = pixels > 0
    raw = np.where(present, np.maximum(pixels, 1) ** -power, 0.0)
    weights: npt.NDArray[np.float32] = (raw * pixels.sum() / (raw * pixels).sum()).astype(np.float32)
    return weights
