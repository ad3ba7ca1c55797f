"""Networks by name; a network's module is imported only when it is asked for. Other packages add more by entry points.

A package adds a network by an entry point of the group "wsi_magnet.networks" whose object is a `NetworkInfo`; or many,
by a function from the second part of "NAME:variant" to a `NetworkInfo`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

import torch
from torch import nn

from wsi_magnet.errors import BundleError
from wsi_magnet.nets.gate import GateModule, PoolModule
from wsi_magnet.nets.identity import IdentityRefiner
from wsi_magnet.nets.network import NetworkInfo
from wsi_magnet.nets.outside import DISTRIBUTIONS, version_of
from wsi_magnet.nets.refiner import LIGHT_WIDTH, RefinementModule
from wsi_magnet.nets.spec import Argument, BundleSpec, ChannelOrder
from wsi_magnet.nets.trust import EXPORTED

GROUP = "wsi_magnet.networks"

_OWN: dict[str, str] = {
    "fpn": "fpn",
    "psp": "pspnet",
    "hrnet18+ocr": "hrnet_ocr",
    "small": "small",
    "fcn_resnet50_unet": "fcn_resnet50_unet",
    "identity": "identity",
    EXPORTED: "exported",
    "vit": "vit_variants",
    "timm": "timm_networks",
    "smp": "smp_networks",
}
"""Module by name; its `INFO` is what an entry point's object would be."""

FAMILIES = ("vit", *DISTRIBUTIONS)
"""Names that need a variant after a colon."""

OWN_NETWORKS = tuple(name for name in _OWN if name not in (EXPORTED, *FAMILIES))

GATES = ("gate", "gate+rgb")
"""Refinement modules that choose between their two maps; the second sees the pixels."""

REFINERS = ("magnet", "light", "pool", *GATES, "identity")


def network_names() -> tuple[str, ...]:
    """Names of all networks, those of other packages last; a name that ends with a colon needs a variant after it."""
    families = tuple(f"{name}:" for name in FAMILIES)
    return (*OWN_NETWORKS, *families, *sorted({point.name for point in entry_points(group=GROUP)}))


def network_info(name: str, package: str | None = None) -> NetworkInfo:
    """The description of a network.

    package: name and version of the package that it came from when the bundle was made, for the error. Raises
    BundleError for an unknown network, and for an entry point that is none.
    """
    kind, colon, variant = name.partition(":")
    if kind in _OWN:
        where, found = f"network {kind!r}", import_module(f"wsi_magnet.nets.{_OWN[kind]}").INFO
    else:
        point = _point(kind, name, package)
        where = f"entry point {point.name!r} of group {GROUP} ({point.value})"
        found = _loaded(point, where)
    if not isinstance(found, NetworkInfo) and callable(found):
        if not variant:
            raise BundleError(f"network {name!r} has variants; name one as {kind}:VARIANT")
        found = _variant(found, variant, where)
    elif colon and isinstance(found, NetworkInfo):
        raise BundleError(f"network {kind!r} has no variants, so none {variant!r}")
    if not isinstance(found, NetworkInfo):
        raise BundleError(f"{where} is {type(found).__name__}, not a wsi_magnet.nets.network.NetworkInfo")
    return found


def info_of(spec: BundleSpec) -> NetworkInfo:
    """The description of a bundle's network. Raises BundleError, also where its package is not installed."""
    try:
        return network_info(spec.network, spec.network_package)
    except BundleError as error:
        raise BundleError(f"bundle {spec.name!r}: {error}") from error.__cause__


def package_of(name: str) -> str | None:
    """Name and version of the package that a network comes from, such as "my-networks 1.0"; None for our own."""
    kind = name.partition(":")[0]
    if kind in DISTRIBUTIONS:
        return version_of(kind)
    if kind in _OWN:
        return None
    dist = next((one.dist for one in entry_points(group=GROUP) if one.name == kind), None)
    return None if dist is None else f"{dist.name} {dist.version}"


def build_network(network: str, n_classes: int, **network_args: Argument) -> nn.Module:
    """A segmentation network with fresh weights.

    It takes float (N, 3, H, W), normalised RGB, and returns logits (N, n_classes, H, W). Raises BundleError for an
    unknown name or argument.
    """
    return network_info(network).made(n_classes, network_args)


def feature_channels(network: str, **network_args: Argument) -> int:
    """Channels of a network's features, the input of its last layer; 0 if it has none. Raises BundleError."""
    info = network_info(network)
    return 0 if info.head is None else info.head_of(unloaded(info, 2, network_args)).in_channels


def unloaded(
    info: NetworkInfo, n_classes: int, network_args: Mapping[str, Argument], *, weights: bool = False
) -> nn.Module:
    """A network whose weights are to be loaded: without storage where it can be, unless `weights` is True. The
    caller's random numbers are not disturbed. Raises BundleError.
    """
    if info.builds_on_meta and not weights:
        with torch.device("meta"):
            return info.made(n_classes, network_args)
    with torch.random.fork_rng(devices=[]):
        return info.made(n_classes, network_args)


def _point(kind: str, name: str, package: str | None) -> EntryPoint:
    found = [one for one in entry_points(group=GROUP) if one.name == kind]
    if len(found) > 1:
        values = ", ".join(sorted(one.value for one in found))
        raise BundleError(
            f"network {kind!r} is an entry point of {len(found)} packages ({values}); uninstall all but one"
        )
    if found:
        return found[0]
    if package:
        raise BundleError(
            f"network {name!r} comes from the package {package}, which is not installed here or has no entry point "
            f"{kind!r} of group {GROUP}; install it: pip install {package.partition(' ')[0]}"
        )
    raise BundleError(
        f"network {name!r} is none of {', '.join(network_names())}; one of another package must be installed with an "
        f"entry point {kind!r} of group {GROUP}"
    )


def _loaded(point: EntryPoint, where: str) -> object:
    try:
        found: object = point.load()
    except Exception as error:  # another package's code may raise anything
        raise BundleError(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error
    return found


def _variant(family: Callable[[str], object], variant: str, where: str) -> object:
    try:
        return family(variant)
    except BundleError:
        raise
    except Exception as error:  # another package's code may raise anything
        raise BundleError(f"{where} has no variant {variant!r}: {type(error).__name__}: {error}") from error


def build_refiner(refiner: str, n_classes: int, channel_order: ChannelOrder = "fine_first") -> nn.Module:
    """A refinement module with fresh weights, called as `refiner(fine=..., coarse=...)`, and with `rgb=...` where its
    attribute `uses_rgb` is true. Raises BundleError.
    """
    if refiner == "magnet":
        return RefinementModule(n_classes, channel_order)
    if refiner == "light":
        return RefinementModule(n_classes, channel_order, LIGHT_WIDTH)
    if refiner in ("pool", *GATES) and channel_order != "fine_first":
        raise BundleError(f"refiner {refiner!r} has one order of its maps; channel_order must be fine_first")
    if refiner == "pool":
        return PoolModule()
    if refiner in GATES:
        return GateModule(n_classes, uses_rgb=refiner == "gate+rgb")
    if refiner == "identity":
        return IdentityRefiner()
    raise BundleError(f"unknown refiner {refiner!r}; available are {', '.join(REFINERS)}")
