"""The settings of a training as frozen values, read once from YAML; what is unknown, missing or impossible is named."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from wsi_magnet.config import CELL_SIDES_PX, DEFAULT_CELL_PX
from wsi_magnet.errors import BundleError, ConfigError
from wsi_magnet.labels import BACKGROUND_CLASS
from wsi_magnet.methods.registry import method_class
from wsi_magnet.nets.classes import has_control_characters, named_classes, palette_color, problem_of
from wsi_magnet.nets.registry import GATES, network_info
from wsi_magnet.nets.spec import MOST_HALO_PX, MOST_MEDIAN_PX, Argument, ClassInfo
from wsi_magnet.scales import check_mpps
from wsi_magnet.schema import SchemaError, parse
from wsi_magnet.values import check_fields, documented

if TYPE_CHECKING:
    from wsi_magnet.methods.method import MethodInfo

LEAST_CROP_PX = 64
"""Smallest crop of the backbone: at stride 32 a smaller one is a single pixel, which batch normalisation cannot use."""

EXTENDS = "extends"
"""The setting that names the file to begin with."""

METHODS = "methods"
"""The setting that lists other methods."""

LATER_SETTINGS = (
    ("refiners", "choice_weight", 0.0),
    ("backbone", "encoder_learning_rate", 1.0),
    ("backbone", "accumulate", 1),
)
"""Sections, names and defaults of settings that earlier versions did not have: their checkpoints stay usable."""

WINDOW_MULTIPLE = 32
"""Divisor of a method's windows: features have whole strides then, of every network."""


@documented
@dataclass(frozen=True, slots=True)
class ClassConfig:
    """A class of the bundle to be."""

    name: str
    """Name of the class."""
    value: int | None = None
    """Label in the mask; the canonical one of that name, or the next free one, where left out."""
    color: tuple[int, int, int] | None = None
    """RGB, 0 to 255; that of the name, or the next free one, where left out."""

    def __post_init__(self) -> None:
        check_fields(self)


@documented
@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Strengths of the augmentations; 0 or false turns one off."""

    flips: bool = True
    """The eight orientations."""
    upright: bool = False
    """Of the eight orientations only the mirrored one, for pictures with an above and a below."""
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
    glass: float = 0.35
    """Share of the crops into which glass and empty scan areas are painted, where a class has the value 0
    (background)."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_settings("", self)


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """Settings of the training loop for one stage."""

    steps: int
    """Number of steps."""
    batch: int
    """Crops of a step."""
    learning_rate: float
    """The highest."""
    optimizer: str = "adamw"
    """'adamw' or 'sgd'."""
    weight_decay: float = 0.02
    """Decay of the weights."""
    momentum: float = 0.9
    """Momentum of SGD."""
    schedule: str = "one_cycle"
    """One cycle: up for a tenth of the steps, then down to nothing. Poly: (1 - step / steps) ** 0.9, as the published
    backbones. Steps: a tenth after each fifth, as the published refiners."""
    clip: float = 5.0
    """Longest gradient; 0 leaves it."""
    validate_every: int = 100
    """Steps between two validations."""
    average: float = 0.0
    """Weights are validated and kept as their moving average with this decay, 0.99 being over about 100 steps; 0 takes
    them as they are. With few images single steps pull them this way and that."""
    keep_from: float = 0.0
    """Share of the steps before which no weights are kept. While the learning rate is high, validation on a few images
    goes up and down by luck, and the best of it may be a network that has hardly learned: 0.7 keeps settled ones."""
    patience: int = 1000
    """Validations without a better mIoU after which the stage ends."""
    checkpoint_every: int = 50
    """Steps between two checkpoints, from which a stopped training resumes."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_settings("", self)

    @property
    def items(self) -> int:
        """Items that a step draws."""
        return self.batch


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneConfig(StageConfig):
    """Stage 1: the network on crops of every scale."""

    steps: int = 1400
    batch: int = 8
    learning_rate: float = 0.003
    """The highest. For the network "small"; the published ones need a third of it."""
    network: str
    """'fpn', 'psp', 'hrnet18+ocr', 'small', 'fcn_resnet50_unet', 'vit:VARIANT', 'timm:NAME',
    'smp:ARCHITECTURE/ENCODER', or one of another package (docs/networks.md)."""
    network_args: Mapping[str, Argument] = field(default_factory=dict)
    """Arguments of the network besides the number of classes."""
    encoder: str | None = None
    """A local file of published weights for the network's trunk; relative paths are counted from the configuration."""
    encoder_learning_rate: float = 1.0
    """Learning rate of the network's encoder as a share of `learning_rate`. 0: the encoder is frozen, the running means
    of its batch normalisation too."""
    accumulate: int = 1
    """Batches whose gradients are added up for one step: as if a batch had so many times as many crops, with the memory
    of one. Batch normalisation sees each of them alone."""
    crop_px: int = 256
    """Side of a crop, in pixels."""
    scale_shares: tuple[float, ...] = ()
    """Relative frequency of each scale, coarse to fine; equal if left out."""
    auxiliary: float = 0.4
    """Weight of the auxiliary head's loss, for networks that have one."""

    @property
    def items(self) -> int:
        """Crops that a step draws."""
        return self.batch * self.accumulate


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class RefinerConfig(StageConfig):
    """Stage 2: the refinement modules, the backbone frozen."""

    steps: int = 400
    batch: int = 1
    learning_rate: float = 0.0015
    """The highest."""
    module: str = "magnet"
    """"magnet", as published; "light", a fourteenth of its arithmetic, for networks that are small themselves; "pool",
    a product of the two maps with a weight for each; "gate", which chooses at each pixel between them; or "gate+rgb",
    which sees the pixels too."""
    choice_weight: float = 0.0
    """Weight of a further loss of a gate: its choice, where exactly one of its two maps is right."""
    shared: bool = False
    """One module for all steps up the ladder instead of one a step."""
    input: str = "cumulative"
    """Y in training: "published", always the coarsest scale's own prediction (A8 of the paper's program), or
    "cumulative", as in a run: the merged result of the coarser scales."""
    loss: str = "cross_entropy"
    """'cross_entropy' or 'ohem'."""
    ohem_below: float = 0.7
    """Probability of the truth below which 'ohem' learns from a pixel."""
    ohem_kept: int = 100_000
    """"ohem" learns from pixels whose truth has less probability than that, and from this many at least, of the crops
    of a view at a scale; fewer than those have, which are `crops` times `crop_px` squared."""
    window_px: int = 384
    """Side of a view at the finest scale, its margins included."""
    crops: int = 4
    """Crops of a view that are learned from, at each scale."""
    crop_px: int = 96
    """Side of a crop, in pixels."""
    augment: AugmentConfig | None = None
    """Augmentation of this stage; the backbone's if left out. A stronger one makes the frozen backbone err on tissue
    that it has memorised as it errs on new tissue, and the modules learn to correct such errors."""
    statistics_momentum: float = 0.1
    """Momentum of the running means of batch normalisation. The published 0.01 needs a thousand steps to approach the
    true means; until then validation, and the modules' output in "cumulative", differ from those of a run."""


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class MethodConfig(StageConfig):
    """The head of another method, the backbone frozen; the defaults are those of every method.

    A file need not give `steps`: it then has those that the method suggests, `MethodInfo.steps`.
    """

    batch: int = 2
    """Windows of a step."""
    learning_rate: float = 0.002
    """The highest."""
    weight_decay: float = 0.01
    """Decay of the weights."""
    window_px: int = 384
    """Side of a window at the finest scale."""
    augment: AugmentConfig | None = None
    """Augmentation of the windows; the backbone's if left out."""


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """Settings of the fitting on validation rows after training."""

    select: str = "hard"
    """"hard" overwrites what is selected, as published; "soft" mixes by how far the score is above the threshold."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_settings("", self)


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Everything that the weights depend on, but the data and the versions of the libraries."""

    name: str
    """Name of the bundle to be."""
    mpps: tuple[float, ...]
    """Microns per pixel of each scale, coarse to fine, each half of the one before."""
    classes: tuple[ClassConfig, ...]
    """Classes, in the order of the network's channels."""
    backbone: BackboneConfig
    """Stage 1."""
    refiners: RefinerConfig = field(default_factory=RefinerConfig)
    """Stage 2."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of the backbone's crops."""
    methods: Mapping[str, MethodConfig | None] = field(default_factory=dict)
    """Other methods whose heads are trained and whose parameters are fitted, by name; None for one that learns
    nothing. A file may give a list of names instead."""
    fit: FitConfig = field(default_factory=FitConfig)
    """Fitting after training."""
    seed: int = 0
    """Seed of everything that is drawn."""
    validation_views: int = 64
    """Greatest number of validation windows."""
    class_balance: float = 0.5
    """Crops are drawn round a class with its pixels to this power: 1 as often as it occurs, 0 all alike."""
    class_weight: float = 0.0
    """The loss of a class is weighed with its pixels to minus this power, 0 not at all."""
    cell_px: int = DEFAULT_CELL_PX
    """Side of a cell in a run, in pixels: 128, 256 or 512. The weights do not depend on it, so that another one trains
    nothing again."""
    halo_px: int = 32
    """Minimum margin around a cell in a run, in pixels."""
    median_px: int = 5
    """Odd side of the query score's median, in pixels of the coarsest scale."""
    precision: str = "auto"
    """"auto": bf16 where the device computes it natively, otherwise fp32 on CPU and fp16 with loss scaling on CUDA."""
    card: Mapping[str, str] = field(default_factory=dict)
    """Model card, for people: licence, data, intended use, not for."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_mpps(self.mpps)
        if len(self.mpps) < 2:
            raise ConfigError(f"mpps has {len(self.mpps)} scale; MagNet needs at least 2")
        check_settings("", self)
        if self.median_px % 2 == 0:
            raise ConfigError(f"median_px {self.median_px} is not odd")
        if self.cell_px not in CELL_SIDES_PX:
            raise ConfigError(f"cell_px {self.cell_px} is not 128, 256 or 512", arguments=("cell_px",))
        if has_control_characters(self.name):
            raise ConfigError(f"name {self.name!r} has control characters; choose another")
        self._check_backbone()
        multiple = 1 << len(self.mpps)
        if self.refiners.window_px % multiple or self.refiners.window_px < 4 * multiple:
            raise ConfigError(
                f"refiners.window_px {self.refiners.window_px} is not a multiple of {multiple}, at least "
                f"{4 * multiple}: it is halved from scale to scale"
            )
        if self.refiners.choice_weight and self.refiners.module not in GATES:
            raise ConfigError(
                f"refiners.choice_weight {self.refiners.choice_weight:g} needs a module that chooses, "
                f"{' or '.join(GATES)}, and refiners.module is {self.refiners.module!r}"
            )
        _check_mining(self.refiners)
        self.class_infos()
        object.__setattr__(self, METHODS, _checked_methods(self))

    def _check_backbone(self) -> None:
        network, crop_px, shares = self.backbone.network, self.backbone.crop_px, self.backbone.scale_shares
        try:
            info = network_info(network)
            if info.trainable:  # others' arguments are in the bundle of --backbone
                info.checked(self.backbone.network_args)
        except BundleError as error:
            raise ConfigError(f"backbone.{error}") from error.__cause__
        multiple = info.input_multiple
        if crop_px < LEAST_CROP_PX or crop_px % multiple:
            raise ConfigError(
                f"backbone.crop_px {crop_px} is not at least {LEAST_CROP_PX} and a multiple of {multiple}, as network "
                f"{network!r} needs it"
            )
        if self.backbone.encoder_learning_rate != 1 and not info.encoder:
            raise ConfigError(
                f"backbone.encoder_learning_rate needs a network whose description names its encoder, and {network!r} "
                "names none; leave it out, or choose another network, such as 'small' (NetworkInfo.encoder)"
            )
        if shares and (len(shares) != len(self.mpps) or min(shares) < 0 or sum(shares) == 0):
            raise ConfigError(
                f"backbone.scale_shares {list(shares)} are not {len(self.mpps)} numbers, one a scale, from 0 on and "
                "not all 0"
            )

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
            named = ", ".join(f"{c.name} {c.value}" for c in made)
            raise ConfigError(f"classes must be at least two, of different values; got {named}: give each a value")
        for one in made:
            if problem := problem_of(one.name, one.value):
                raise ConfigError(f"class name {one.name!r} {problem}; choose another name or value")
        return made

    @property
    def background_set(self) -> int | None:
        """Label set of the background class alone; None without a class of value 0."""
        values = [one.value for one in self.class_infos()]
        return 1 << values.index(BACKGROUND_CLASS.value) if BACKGROUND_CLASS.value in values else None

    def to_json(self) -> dict[str, Any]:
        """Plain values; without later settings where these have their defaults, as versions before them wrote them."""
        values = asdict(self)
        if self.cell_px == DEFAULT_CELL_PX:
            del values["cell_px"]
        if not self.methods:
            del values[METHODS]
        for section, name, default in LATER_SETTINGS:
            if values[section][name] == default:
                del values[section][name]
        return values


def _check_mining(refiners: RefinerConfig) -> None:
    """Raises ConfigError where "ohem" keeps all pixels that a loss sees, so that it would be cross-entropy."""
    side = min(refiners.crop_px, refiners.window_px)
    seen = side * side * (refiners.crops if side < refiners.window_px else 1)
    if refiners.loss == "ohem" and refiners.ohem_kept >= seen:
        raise ConfigError(
            f"refiners.ohem_kept {refiners.ohem_kept} leaves out none of the {seen} pixels that a loss sees (crops x "
            f"crop_px x crop_px), so that 'ohem' has no effect; choose less, such as a quarter, {max(1, seen // 4)}"
        )


def _checked_methods(config: TrainingConfig) -> dict[str, MethodConfig | None]:
    """The methods by their own names, with default settings where one learns and has none. Raises ConfigError."""
    found: dict[str, MethodConfig | None] = {}
    for given, settings in config.methods.items():
        info = _info_of(given)
        name, needs = info.name, info.needs
        if name in found:
            raise ConfigError(f"methods names {name!r} twice; leave one out")
        if settings is not None and not needs.head:
            raise ConfigError(f"methods.{given} has settings, but {name} learns nothing; give its name alone")
        if (needs.features or needs.context) and network_info(config.backbone.network).head is None:
            raise ConfigError(
                f"methods.{given} needs features of the backbone, and network {config.backbone.network!r} has none; "
                "leave it out, or choose another network, such as 'small'"
            )
        found[name] = (settings or MethodConfig(steps=info.steps)) if needs.head else None
        if one := found[name]:
            _check_window(name, one, len(config.mpps))
    return found


def _info_of(method: str) -> MethodInfo:
    try:
        return method_class(method).info
    except ConfigError as error:
        raise ConfigError(f"methods: {error}") from None


def _check_window(name: str, settings: MethodConfig, scales: int) -> None:
    multiple = max(WINDOW_MULTIPLE, 1 << scales)
    if settings.window_px % multiple:
        raise ConfigError(
            f"methods.{name}.window_px {settings.window_px} is not a multiple of {multiple}, as features and "
            f"{scales} scales need it"
        )


class _Loader(yaml.SafeLoader):
    """YAML loader that reads 1e-3 as a number, which YAML 1.1 reads as text, and refuses a setting that is given
    twice.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = Counter(str(key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if repeated := [name for name, count in names.items() if count > 1]:
            raise ConfigError(f"{repeated[0]!r} stands there twice, in or below line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def read_config(path: str | Path) -> TrainingConfig:
    """Read a YAML file. Raises ConfigError, one line, for what is unknown, missing or cannot be.

    `extends: other.yaml` begins with another file's settings, section by section; paths are counted from this one.
    """
    path = Path(path).expanduser()
    try:
        config: TrainingConfig = parse(TrainingConfig, _with_methods(_read(path)), "config")
    except SchemaError as error:
        raise ConfigError(f"{path}: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {str(error).removeprefix('config.')}") from None
    if config.backbone.encoder and not Path(config.backbone.encoder).is_absolute():
        encoder = str((path.parent / config.backbone.encoder).absolute())
        config = replace(config, backbone=replace(config.backbone, encoder=encoder))
    return config


def _read(path: Path, extended_by: tuple[Path, ...] = ()) -> object:
    """The values of a file, laid over those of the file that it extends."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"no YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError("it is nested too deeply to be a configuration") from None
    if not isinstance(values, dict) or EXTENDS not in values:
        return values
    base = path.parent / str(values.pop(EXTENDS))
    if base in extended_by or base == path:
        raise ConfigError(f"{base} extends itself")
    try:
        return _laid_over(_read(base, (*extended_by, path)), values)
    except ConfigError as error:
        raise ConfigError(f"extends {base}: {error}") from None


def _with_methods(values: object) -> object:
    """The values with a mapping under `methods`, where a list of names may stand. Raises ConfigError."""
    if not isinstance(values, dict) or METHODS not in values:
        return values
    given = values[METHODS]
    if not isinstance(given, dict | list):
        raise ConfigError(f"methods is {given!r:.60}, not a list of names or an object with settings by name")
    if wrong := [one for one in given if not isinstance(one, str)]:
        raise ConfigError(f"methods has {wrong[0]!r:.60}, not a name; give settings as `methods: {{NAME: {{...}}}}`")
    if repeated := [name for name, count in Counter(list(given)).items() if count > 1]:
        raise ConfigError(f"methods names {repeated[0]!r} twice; leave one out")
    if isinstance(given, list):
        return {**values, METHODS: dict.fromkeys(given)}
    return {**values, METHODS: {name: _with_steps(name, settings) for name, settings in given.items()}}


def _with_steps(method: str, settings: object) -> object:
    """Settings of a method with its own number of steps where they have none; {} stands for no settings, also of a
    method that learns nothing.
    """
    if isinstance(settings, dict) and settings:
        return {"steps": _info_of(method).steps, **settings}
    return settings or None


def _laid_over(base: object, values: object) -> object:
    if not isinstance(base, dict) or not isinstance(values, dict):
        return values
    return {**base, **{key: _laid_over(base.get(key), value) for key, value in values.items()}}


CHOICES = {
    "optimizer": ("adamw", "sgd"),
    "schedule": ("one_cycle", "poly", "steps"),
    "loss": ("cross_entropy", "ohem"),
    "input": ("cumulative", "published"),
    "module": ("magnet", "light", "pool", *GATES),
    "select": ("hard", "soft"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
}
"""Words that a setting of that name may be."""

RANGES: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("steps", "validate_every", "patience", "checkpoint_every"), (1, inf)),
    **dict.fromkeys(("crops", "ohem_kept", "validation_views"), (1, inf)),
    **dict.fromkeys(("weight_decay", "clip", "auxiliary", "choice_weight"), (0, inf)),
    **dict.fromkeys(("momentum", "blur", "jpeg", "glass", "class_balance", "keep_from"), (0, 1)),
    **dict.fromkeys(("stain", "light", "class_weight"), (0, 2)),
    "learning_rate": (1e-9, 100),
    "encoder_learning_rate": (0, 1),
    "statistics_momentum": (1e-4, 1),
    "average": (0, 0.9999),
    "ohem_below": (0.01, 1),
    # No memory holds more; a typing error is reported before the data are read.
    **dict.fromkeys(("batch", "accumulate"), (1, 4096)),
    "crop_px": (8, 8192),
    "window_px": (8, 8192),
    "scale_jitter": (1, 4),
    "rotation": (0, 45),
    "seed": (0, 2**32 - 1),
    "halo_px": (0, MOST_HALO_PX),
    "median_px": (1, MOST_MEDIAN_PX),
}
"""Least and most that a setting of that name may be."""


def check_settings(prefix: str, part: object) -> None:
    """Raises ConfigError for a setting that is outside its range or none of its words."""
    for name, words in CHOICES.items():
        word = getattr(part, name, words[0])
        if word not in words:
            raise ConfigError(f"{prefix}{name} {word!r} is none of {', '.join(words)}", arguments=(name,))
    for name, (low, high) in RANGES.items():
        value = getattr(part, name, low)
        if not low <= value <= high:
            wanted = f"at least {low:g}" if high == inf else f"between {low:g} and {high:g}"
            raise ConfigError(f"{prefix}{name} {value:g} is not {wanted}", arguments=(name,))
