"""The settings of a training as frozen values, read once from YAML; what is unknown, missing or impossible is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from wsi_magnet.errors import BundleError, ConfigError
from wsi_magnet.nets.classes import named_classes, palette_color
from wsi_magnet.nets.registry import NETWORKS
from wsi_magnet.nets.spec import ClassInfo
from wsi_magnet.nets.strict import parse
from wsi_magnet.scales import check_mpps

CHOICES = {
    "optimizer": ("adamw", "sgd"),
    "schedule": ("one_cycle", "poly", "steps"),
    "loss": ("cross_entropy", "ohem"),
    "input": ("cumulative", "published"),
    "select": ("hard", "soft"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
}
"""Words that a setting of that name may be."""


@dataclass(frozen=True, slots=True)
class ClassConfig:
    """A class of the bundle to be."""

    name: str
    value: int | None = None
    """Label in the mask; the canonical one of that name, or the next free one, where left out."""
    color: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """What may differ between laboratories and scanners; 0 or false turns a thing off."""

    flips: bool = True
    """The eight orientations."""
    scale_jitter: float = 1.25
    """Largest factor on mpp, either way, drawn log-uniformly."""
    stain: float = 0.2
    """Deviation of the log of the amount of each stain, in HED space."""
    light: float = 0.04
    """Deviation of the brightness of a channel."""
    rotation: float = 0.0
    """Largest rotation besides the quarter turns, in degrees either way."""
    blur: float = 0.3
    """Share of the crops that are blurred, by up to 1.3 pixels."""
    jpeg: float = 0.4
    """Share of the crops that go through JPEG, quality 30 to 95."""

    def __post_init__(self) -> None:
        if not 1 <= self.scale_jitter <= 4:
            raise ConfigError(f"augment.scale_jitter {self.scale_jitter:g} is not between 1 and 4")
        if not 0 <= self.rotation <= 45:
            raise ConfigError(f"augment.rotation {self.rotation:g} is not between 0 and 45 degrees")


NO_AUGMENTATION = AugmentConfig(False, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """What the loop needs to know of a stage."""

    steps: int
    batch: int
    learning_rate: float
    """The highest."""
    optimizer: str = "adamw"
    weight_decay: float = 0.02
    momentum: float = 0.9
    """Of SGD."""
    schedule: str = "one_cycle"
    """One cycle: up for a tenth of the steps, then down to nothing. Poly: (1 - step / steps) ** 0.9, as the published
    backbones. Steps: a tenth after each fifth, as the published refiners."""
    clip: float = 5.0
    """Longest gradient; 0 leaves it."""
    validate_every: int = 100
    patience: int = 1000
    """Validations without a better mIoU after which the stage ends."""
    checkpoint_every: int = 50

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "validate_every", "patience", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} is not at least 1")
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate {self.learning_rate:g} is not above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneConfig(StageConfig):
    """Stage 1: the network on crops of every scale."""

    network: str
    network_args: Mapping[str, int | float] = field(default_factory=dict)
    encoder: str | None = None
    """A local file of ImageNet weights for the network's trunk; relative paths are counted from the configuration."""
    crop_px: int = 256
    scale_shares: tuple[float, ...] = ()
    """How often each scale is drawn, coarse to fine; all alike where left out."""
    auxiliary: float = 0.4
    """Weight of the auxiliary head's loss, for networks that have one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefinerConfig(StageConfig):
    """Stage 2: the refinement modules, the backbone frozen."""

    shared: bool = False
    """One module for all steps up the ladder instead of one a step."""
    input: str = "cumulative"
    """What Y is in training: "published", always the coarsest scale's own prediction (A8 of the paper's program), or
    "cumulative", what a run would hand over: the coarser scales' merged result."""
    loss: str = "cross_entropy"
    ohem_below: float = 0.7
    ohem_kept: int = 100_000
    """"ohem" learns from pixels whose truth has less probability than that, and from this many at least."""
    window_px: int = 384
    """Side of a view at the finest scale, its margins included."""
    crops: int = 4
    """Crops of a view that are learned from, at each scale."""
    crop_px: int = 96
    augment: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """What is fitted on validation data after the training."""

    select: str = "hard"
    """"hard" overwrites what is selected, as published; "soft" mixes by how far the score is above the threshold."""
    most_windows: int = 64
    """Views of the validation rows that are looked at, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Everything that the weights depend on, but the data and the versions of the libraries."""

    name: str
    mpps: tuple[float, ...]
    classes: tuple[ClassConfig, ...]
    backbone: BackboneConfig
    refiners: RefinerConfig
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    seed: int = 0
    class_balance: float = 0.5
    """Crops are drawn round a class with its pixels to this power: 1 as often as it occurs, 0 all alike."""
    class_weight: float = 0.0
    """The loss of a class is weighed with its pixels to minus this power, 0 not at all."""
    halo_px: int = 32
    median_px: int = 5
    precision: str = "auto"
    """"auto": bf16 where the device computes it natively, otherwise fp32 on CPU and fp16 with loss scaling on CUDA."""
    card: Mapping[str, str] = field(default_factory=dict)
    """For people: licence, data, intended use, not for."""

    def __post_init__(self) -> None:
        check_mpps(self.mpps)
        if len(self.mpps) < 2:
            raise ConfigError(f"mpps has {len(self.mpps)} scale; MagNet needs at least 2")
        if self.backbone.network not in NETWORKS:
            raise ConfigError(f"backbone.network {self.backbone.network!r} is none of {', '.join(NETWORKS)}")
        if self.backbone.scale_shares and len(self.backbone.scale_shares) != len(self.mpps):
            raise ConfigError(f"backbone.scale_shares has {len(self.backbone.scale_shares)} values for {self.mpps}")
        multiple = 1 << len(self.mpps)
        if self.refiners.window_px % multiple or self.refiners.window_px < 4 * multiple:
            raise ConfigError(
                f"refiners.window_px {self.refiners.window_px} is not a multiple of {multiple}, at least "
                f"{4 * multiple}: it is halved from scale to scale"
            )
        for part in (self, self.backbone, self.refiners, self.fit):
            for name, words in CHOICES.items():
                if getattr(part, name, words[0]) not in words:
                    raise ConfigError(f"{name} {getattr(part, name)!r} is none of {', '.join(words)}")
        self.class_infos()

    def class_infos(self) -> tuple[ClassInfo, ...]:
        """The bundle's classes in the order of the network's channels. Raises ConfigError."""
        try:
            found = named_classes([c.name for c in self.classes])
            made = tuple(
                ClassInfo(
                    one.name, one.value if own.value is None else own.value, own.color or one.color or palette_color(i)
                )
                for i, (own, one) in enumerate(zip(self.classes, found, strict=True))
            )
        except BundleError as error:
            raise ConfigError(str(error)) from None
        values = [c.value for c in made]
        if len(values) < 2 or len(set(values)) < len(values):
            raise ConfigError(f"classes need at least two different values; got {values}")
        return made

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def read_config(path: str | Path) -> TrainingConfig:
    """Read a YAML file. Raises ConfigError, one line, for what is unknown, missing or cannot be."""
    path = Path(path).expanduser()
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    try:
        config: TrainingConfig = parse(TrainingConfig, raw, "config")
    except (BundleError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if config.backbone.encoder and not Path(config.backbone.encoder).is_absolute():
        encoder = str((path.parent / config.backbone.encoder).absolute())
        config = replace(config, backbone=replace(config.backbone, encoder=encoder))
    return config
