"""Methods made from bundles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from wsi_magnet.errors import BundleError, ConfigError
from wsi_magnet.methods.method import Method, Needs
from wsi_magnet.methods.registry import method_class, refining_methods
from wsi_magnet.nets.bundle import Bundle
from wsi_magnet.nets.checkpoint import load_exactly
from wsi_magnet.nets.registry import feature_channels, info_of
from wsi_magnet.nets.spec import MOST_HALO_PX, BundleSpec


def build_method(bundle: Bundle, name: str) -> Method:
    """A method with a bundle's parameters and weights, on the bundle's device.

    Raises ConfigError for an unknown name, and BundleError where the bundle lacks what the method needs.
    """
    kind, spec = method_class(name), bundle.spec
    own, needs = kind.info.name, kind.info.needs
    channels = _checked_channels(spec, needs, own)
    head, state = None, bundle.heads.get(own)
    if needs.head and state is not None:
        head = _meta_head(kind, spec, channels)
        assert head is not None, own
        _load(head, state, bundle, own)
        head = head.eval().requires_grad_(False).to(bundle.device)
    return _made(kind, spec, head)


def receptive_radius_px(spec: BundleSpec, name: str, mpp: float) -> int:
    """Receptive radius of a method at a scale of that mpp, from a bundle's description alone.

    Raises ConfigError for an unknown name, and BundleError where the bundle lacks what the method needs or the radius
    is more than the largest halo.
    """
    kind = method_class(name)
    channels, own = _checked_channels(spec, kind.info.needs, kind.info.name), kind.info.name
    trained = not kind.info.needs.head or own in spec.methods
    radius = _made(kind, spec, _meta_head(kind, spec, channels) if trained else None).receptive_radius_px(mpp)
    if radius > MOST_HALO_PX:
        raise BundleError(
            f"bundle {spec.name!r}: {own} with {_listed(spec.methods.get(own, {}))} has a receptive radius of {radius} "
            f"px at {mpp:g} µm/px, more than {MOST_HALO_PX}; use smaller lengths"
        )
    return radius


def _listed(parameters: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in parameters.items()) or "its defaults"


def require_methods(spec: BundleSpec, names: Iterable[str]) -> None:
    """Raises BundleError unless a bundle has what all these methods need, naming those whose weights it lacks; names
    of methods without a class, such as MagNet, are passed over.
    """
    refining = [method_class(name) for name in names if name in refining_methods()]
    missing = [kind.info.name for kind in refining if kind.info.needs.head and kind.info.name not in spec.methods]
    if missing:
        raise _without_weights(spec, missing)
    for kind in refining:
        receptive_radius_px(spec, kind.info.name, spec.mpps[-1])


def _without_weights(spec: BundleSpec, names: Sequence[str]) -> BundleError:
    return BundleError(
        f"bundle {spec.name!r} has no weights for {', '.join(names)}; {_training(names)}, or take another method"
    )


def _training(names: Sequence[str]) -> str:
    """The way to weights for a bundle that is there."""
    listed = ", ".join(names)
    return f"train them: `wsi-magnet train --backbone BUNDLE --heads-only`, with `methods: [{listed}]` in its --config"


def _load(head: nn.Module, state: Mapping[str, Tensor], bundle: Bundle, own: str) -> None:
    """Load a head's weights. Raises BundleError, with the cure, where they are another network's."""
    try:
        load_exactly(head, state, f"{bundle.path}: {own}")
    except BundleError as error:
        classes = len(bundle.spec.classes)
        raise BundleError(f"{error}; the bundle has {classes} classes: {_training([own])}") from None


def _made(kind: type[Method], spec: BundleSpec, head: nn.Module | None) -> Method:
    """Raises BundleError for parameters that do not fit, and where a head is needed and there is none."""
    if kind.info.needs.head and head is None:
        raise _without_weights(spec, [kind.info.name])
    try:
        return kind(len(spec.classes), spec.methods.get(kind.info.name), head)
    except (BundleError, ConfigError) as error:
        raise BundleError(f"bundle {spec.name!r}: {error}") from None


def _meta_head(kind: type[Method], spec: BundleSpec, channels: int) -> nn.Module | None:
    """The head without storage for weights."""
    with torch.device("meta"):
        return kind.build_head(len(spec.classes), channels)


def _checked_channels(spec: BundleSpec, needs: Needs, own: str) -> int:
    """Channels of the backbone's features. Raises BundleError where the bundle lacks inputs of the method."""
    channels = 0 if info_of(spec).head is None else feature_channels(spec.network, **spec.network_args)
    if not channels and (needs.features or needs.context):
        raise BundleError(
            f"bundle {spec.name!r}: {own} needs features of the backbone, and network {spec.network!r} has none; "
            "use a bundle with another network, such as 'small'"
        )
    if needs.context and len(spec.mpps) < 2:
        raise BundleError(
            f"bundle {spec.name!r}: {own} needs a coarser scale, and the bundle has one scale; use a bundle with more"
        )
    return channels
