"""Bundles that a training takes from: a backbone as it is (`--backbone`), or the weights that all of it begins with
(`--from`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from wsi_magnet.errors import ConfigError
from wsi_magnet.nets.bundle import Bundle, load_bundle
from wsi_magnet.nets.registry import network_info, package_of
from wsi_magnet.nets.spec import Argument, BundleSpec, patch_problem, read_spec
from wsi_magnet.nets.trust import require_trust
from wsi_magnet.train.config import ClassConfig, TrainingConfig


def network_settings(config: TrainingConfig, backbone: Path | None, start: Path | None) -> dict[str, Any]:
    """Fields of the bundle to be that concern the backbone: those of the bundle that it is taken from, if there is one,
    otherwise the network's own, with the normalisation of the bundle that it starts from.
    """
    own = config.backbone
    if backbone is not None:
        found, _ = read_spec(backbone)
        names = ("network", "network_args", "network_package", "patch_px", "mean", "std")
        return {name: getattr(found, name) for name in names}
    pixels = network_info(own.network) if start is None else read_spec(start)[0]
    return {
        "network": own.network,
        "network_args": own.network_args,
        "network_package": package_of(own.network),
        "mean": pixels.mean,
        "std": pixels.std,
    }


def require_backbone(config: TrainingConfig, path: Path) -> None:
    """Raise ConfigError unless the backbone of another bundle matches the configuration."""
    found, _ = read_spec(path)
    require_trust(found, path)
    classes = [(c.name, c.value) for c in found.classes], [(c.name, c.value) for c in config.class_infos()]
    _require_same(path, {**_networks(config, found), "classes": classes})
    if found.patch_px and (
        problem := patch_problem(found.patch_px, config.cell_px, len(config.mpps), config.median_px)
    ):
        raise ConfigError(f"bundle {path} has a network of fixed size: {problem}; change cell_px or median_px")


def require_start(config: TrainingConfig, path: Path) -> None:
    """Raise ConfigError unless all networks of a bundle can be trained further; its classes fit, see `in_order_of`."""
    found, _ = read_spec(path)
    steps = len(config.mpps) - 1
    shared = (0,) * steps if config.refiners.shared else found.refiner_of
    pairs = {"refiners.module": (found.refiner, config.refiners.module), "refiner_of": (found.refiner_of, shared)}
    order = {"channel_order": (found.channel_order, "fine_first")}
    _require_same(path, {**_networks(config, found), **pairs, **order})


def in_order_of(config: TrainingConfig, path: Path) -> TrainingConfig:
    """The configuration with its classes in the order of a bundle's channels; values and colours stay the
    configuration's. Raises ConfigError unless both have the same names, in upper or lower case.
    """
    found, _ = read_spec(path)
    own = {one.name.casefold(): one for one in config.class_infos()}
    names = [one.name for one in found.classes]
    if sorted(name.casefold() for name in names) != sorted(own):
        listed = " and ".join(", ".join(each) for each in (names, [one.name for one in own.values()]))
        raise ConfigError(
            f"bundle {path} and the configuration have different classes, {listed}: --from needs the same names; train "
            "new classes without it"
        )
    ordered = [own[name.casefold()] for name in names]
    return replace(config, classes=tuple(ClassConfig(one.name, one.value, one.color) for one in ordered))


def _networks(config: TrainingConfig, found: BundleSpec) -> dict[str, tuple[object, object]]:
    """Network and scales in a bundle and in a configuration."""
    return {
        "network": (found.network, config.backbone.network),
        "network_args": (dict(found.network_args), dict(_network_args(config, found))),
        "scales": (list(found.mpps), list(config.mpps)),
    }


def _network_args(config: TrainingConfig, bundle: BundleSpec) -> Mapping[str, Argument]:
    """The configuration's arguments, or those of the bundle where the network can only be taken from one."""
    return config.backbone.network_args if network_info(config.backbone.network).trainable else bundle.network_args


def _require_same(path: Path, pairs: Mapping[str, tuple[object, object]]) -> None:
    for name, (found, wanted) in pairs.items():
        if found != wanted:
            raise ConfigError(f"bundle {path} has {name} {found}, the training {wanted}; make them the same")


@dataclass(frozen=True, eq=False)
class Start:
    """The bundle whose weights a training begins with."""

    bundle: Bundle

    @staticmethod
    def of(path: Path | None) -> Start | None:
        """Read the bundle; None without one. Raises BundleError."""
        return None if path is None else Start(load_bundle(path))

    def begin(self, network: nn.Module) -> None:
        """Give a backbone the bundle's weights."""
        network.load_state_dict(self.bundle.backbone.state_dict())

    def begin_refiners(self, modules: nn.ModuleList) -> None:
        """Give refinement modules the bundle's weights. modules: one a step, or one for all."""
        for module, number in zip(modules, self.bundle.spec.refiner_of, strict=False):
            module.load_state_dict(self.bundle.refiners[number].state_dict())

    def facts(self, methods: Mapping[str, object]) -> dict[str, Any]:
        """Plain values for the report. methods: settings of the heads that are trained, by method."""
        fresh = [name for name, one in methods.items() if one is not None and not self.bundle.heads.get(name)]
        return {"name": self.bundle.spec.name, "sha256": self.bundle.sha256, "fresh_heads": fresh}
