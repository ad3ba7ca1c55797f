"""Folding of batch normalisation into the preceding convolutions: the same function with a third less arithmetic.

For inference only: the state dict loses keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TypeGuard

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from wsi_magnet.nets.frozen import copy_sharing_frozen


def fold_batch_norm(network: nn.Module, *, by_name: bool = True) -> nn.Module:
    """A copy of a network in evaluation mode whose logits are the same but for rounding (about 1e-6 of the largest).

    Folds convolutions followed by batch normalisation in an `nn.Sequential`, and `convN` followed by `bnN`. by_name:
    False for networks in which such names may mean another order, as where normalisation comes first. Frozen weights
    that are not folded are in memory once, not twice.
    """
    folded = copy_sharing_frozen(network)
    for module in folded.modules():
        for convolution, (owner, name) in list(_pairs(module, by_name)):
            _fold(convolution, getattr(owner, name))
            setattr(owner, name, nn.Identity())
    return folded


def _pairs(module: nn.Module, by_name: bool) -> Iterator[tuple[nn.Conv2d, tuple[nn.Module, str]]]:
    """Each convolution with the owner and the name of the normalisation after it."""
    children = dict(module.named_children())
    if _in_order(module):
        for (_, first), (name, second) in pairwise(children.items()):
            # Some published networks nest normalisation and ReLU in a sequence of their own.
            owner, key = (second, "0") if _in_order(second) and len(list(second.children())) else (module, name)
            if _is_plain(first) and type(getattr(owner, key)) is nn.BatchNorm2d:
                yield first, (owner, key)
        return
    for name, child in children.items() if by_name else ():
        normalisation = name.replace("conv", "bn")
        if _is_plain(child) and type(children.get(normalisation)) is nn.BatchNorm2d:
            yield child, (module, normalisation)


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """True for torch's own convolution. A class made from it may standardise its weights, and one made from
    normalisation may activate as well.
    """
    return type(layer) is nn.Conv2d


def _in_order(module: nn.Module) -> bool:
    """True for a sequence whose parts are computed one after the other: a class made from it may do otherwise."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _fold(convolution: nn.Conv2d, normalisation: nn.BatchNorm2d) -> None:
    mean, variance = normalisation.running_mean, normalisation.running_var
    assert mean is not None
    assert variance is not None
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        mean,
        variance,
        normalisation.eps,
        normalisation.weight,
        normalisation.bias,
    )
