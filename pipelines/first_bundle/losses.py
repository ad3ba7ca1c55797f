"""Learning from labels that name several classes: minus the log of the probability that it is one of them."""

from __future__ import annotations

import torch
from torch import Tensor


def allowed_classes(sets: Tensor, n_classes: int) -> Tensor:
    """uint8 (N, H, W) of bits to bool (N, C, H, W)."""
    bits = torch.arange(n_classes, dtype=torch.uint8).view(1, -1, 1, 1)
    return (sets.unsqueeze(1) >> bits) & 1 > 0


def set_loss(logits: Tensor, sets: Tensor) -> Tensor:
    """Mean of -log(sum of the probabilities allowed) over the pixels that exclude at least one class.

    logits: float (N, C, H, W); sets: uint8 (N, H, W), a bit for each class. Returns a float32 scalar, 0 without labels.
    """
    allowed = allowed_classes(sets, logits.shape[1])
    logits = logits.float()
    loss = logits.logsumexp(dim=1) - logits.masked_fill(~allowed, float("-inf")).logsumexp(dim=1)
    labelled = ~allowed.all(dim=1)
    return torch.where(labelled, loss, 0.0).sum() / labelled.sum().clamp(min=1)


def guided_loss(logits: Tensor, sets: Tensor, guide: Tensor) -> Tensor:
    """Cross-entropy with what `guide` says among the classes allowed, over the pixels that exclude at least one class.

    `set_loss` leaves open which of the allowed classes it is, and a refinement module, which sees no picture, would
    fill that in at random: rims of tumour round benign glands.

    logits: float (N, C, H, W); sets: uint8 (N, H, W); guide: probabilities, float (N, C, H, W). Returns a scalar.
    """
    allowed = allowed_classes(sets, logits.shape[1])
    target = (guide + 1e-3) * allowed
    target = target / target.sum(dim=1, keepdim=True)
    loss = -(target * logits.float().log_softmax(dim=1)).sum(dim=1)
    labelled = ~allowed.all(dim=1)
    return torch.where(labelled, loss, 0.0).sum() / labelled.sum().clamp(min=1)
