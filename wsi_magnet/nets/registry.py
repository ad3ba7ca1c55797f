"""Networks by name; a network's module is imported only when it is built."""

from __future__ import annotations

from importlib import import_module

import torch
from torch import nn

from wsi_magnet.errors import BundleError
from wsi_magnet.nets.gate import GateModule
from wsi_magnet.nets.identity import IdentityRefiner
from wsi_magnet.nets.refiner import LIGHT_WIDTH, RefinementModule
from wsi_magnet.nets.spec import ChannelOrder

_NETWORKS: dict[str, tuple[str, str, frozenset[str]]] = {
    "fpn": ("fpn", "Fpn", frozenset()),
    "psp": ("pspnet", "PspNet", frozenset()),
    "hrnet18+ocr": ("hrnet_ocr", "HrnetOcr", frozenset()),
    "small": ("small", "SmallNet", frozenset({"width"})),
    "identity": ("identity", "IdentityNet", frozenset({"gain"})),
}
"""Module, class and accepted arguments, by name."""

INPUT_MULTIPLE = {"small": 32}
"""Required divisor of the input's sides, by name; other networks take any size."""

HEADS = {"fpn": "classify", "psp": "final", "hrnet18+ocr": "cls_head", "small": "classify"}
"""Layer that turns features into logits, by name; a network without one cannot be compared with its training data."""

NETWORKS = tuple(_NETWORKS)
GATES = ("gate", "gate+rgb")
"""Refinement modules that choose between their two maps; the second sees the pixels."""

REFINERS = ("magnet", "light", *GATES, "identity")


def build_network(network: str, n_classes: int, **network_args: float) -> nn.Module:
    """A segmentation network with fresh weights.

    It takes float (N, 3, H, W), normalised RGB, and returns logits (N, n_classes, H, W). Raises BundleError for an
    unknown name or argument.
    """
    if network not in _NETWORKS:
        raise BundleError(f"unknown network {network!r}; available are {', '.join(NETWORKS)}")
    module, name, accepted = _NETWORKS[network]
    if unknown := sorted(network_args.keys() - accepted):
        raise BundleError(f"network {network!r} takes no {unknown[0]!r}")
    built: nn.Module = getattr(import_module(f"wsi_magnet.nets.{module}"), name)(n_classes, **network_args)
    return built


def feature_channels(network: str, **network_args: float) -> int:
    """Channels of a network's features, the input of its last layer; 0 if it has none. Raises BundleError."""
    if network not in HEADS:
        return 0
    with torch.device("meta"):
        head = build_network(network, 2, **network_args).get_submodule(HEADS[network])
    assert isinstance(head, nn.Conv2d)
    return head.in_channels


def build_refiner(refiner: str, n_classes: int, channel_order: ChannelOrder = "fine_first") -> nn.Module:
    """A refinement module with fresh weights, called as `refiner(fine=..., coarse=...)`, and with `rgb=...` where its
    attribute `uses_rgb` is true. Raises BundleError.
    """
    if refiner == "magnet":
        return RefinementModule(n_classes, channel_order)
    if refiner == "light":
        return RefinementModule(n_classes, channel_order, LIGHT_WIDTH)
    if refiner in GATES:
        if channel_order != "fine_first":
            raise BundleError(f"refiner {refiner!r} has one order of its maps; channel_order must be fine_first")
        return GateModule(n_classes, uses_rgb=refiner == "gate+rgb")
    if refiner == "identity":
        return IdentityRefiner()
    raise BundleError(f"unknown refiner {refiner!r}; available are {', '.join(REFINERS)}")
