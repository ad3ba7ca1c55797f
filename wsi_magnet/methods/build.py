"""A method made from a bundle."""

from __future__ import annotations

import torch

from wsi_magnet.errors import BundleError, ConfigError
from wsi_magnet.methods.method import Method
from wsi_magnet.methods.registry import method_class
from wsi_magnet.nets.bundle import Bundle
from wsi_magnet.nets.checkpoint import load_exactly
from wsi_magnet.nets.registry import HEADS, feature_channels


def build_method(bundle: Bundle, name: str) -> Method:
    """A method with a bundle's parameters and weights, on the bundle's device.

    Raises ConfigError for an unknown name, and BundleError where the bundle lacks what the method needs.
    """
    kind, spec = method_class(name), bundle.spec
    own, needs, channels = kind.info.name, kind.info.needs, feature_channels(spec.network, **spec.network_args)
    if not channels and (needs.features or needs.context):
        raise BundleError(
            f"bundle {spec.name!r}: {own} needs features of the backbone, and network {spec.network!r} has none; "
            f"use a bundle with one of {', '.join(HEADS)}"
        )
    if needs.context and len(spec.mpps) < 2:
        raise BundleError(f"bundle {spec.name!r}: {own} needs a coarser scale, and the bundle has one")
    head, state = None, bundle.heads.get(own)
    if needs.head and state is not None:
        with torch.device("meta"):
            head = kind.build_head(len(spec.classes), channels)
        assert head is not None, own
        load_exactly(head, state, f"{bundle.path}: {own}")
        head = head.eval().requires_grad_(False).to(bundle.device)
    try:
        return kind(len(spec.classes), spec.methods.get(own), head)
    except (BundleError, ConfigError) as error:
        raise BundleError(f"bundle {spec.name!r}: {error}") from None
