"""The training's specification, and every check that can fail before training starts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsi_magnet.annotations.partition import partition
from wsi_magnet.dataset.label_counts import LabelCounts, check_rows, count_manifest_labels
from wsi_magnet.dataset.manifest import Manifest, read_manifest
from wsi_magnet.dataset.open_sample import MAX_DECODED_BYTES
from wsi_magnet.dataset.sample import Sample
from wsi_magnet.errors import ConfigError, StoreError, TrainingError
from wsi_magnet.labels import BACKGROUND_CLASS
from wsi_magnet.nets.encoder import load_encoder
from wsi_magnet.nets.network import probe
from wsi_magnet.nets.registry import network_info, package_of, unloaded
from wsi_magnet.nets.spec import read_spec
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.output import refuse_below_file
from wsi_magnet.train.config import METHODS, TrainingConfig
from wsi_magnet.train.data_parallel import devices_of
from wsi_magnet.train.given import in_order_of, require_backbone, require_start
from wsi_magnet.train.sampler import class_pixels


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """Specification of a training: data, settings, output and device; small and picklable."""

    manifest: Path
    config: TrainingConfig
    output: Path
    device: str = "auto"
    threads: int | None = None
    """Threads of torch; all cores if left out. The weights depend on the number, by rounding."""
    backbone: Path | None = None
    """A bundle whose backbone is taken instead of training one."""
    heads_only: bool = False
    """Take everything else of that bundle too, and train the heads of the configuration's methods alone."""
    start: Path | None = None
    """A bundle whose weights are those that the training begins with; see `started`."""
    loaders: int = 0
    """Processes that draw batches, for each device; 0 for threads of the training's process. Weights do not depend on
    the number."""
    cache_bytes: int = MAX_DECODED_BYTES
    """Decoded pixels that are kept in memory, at most, for each device; see `SamplePool`."""

    @property
    def folder(self) -> Path:
        """Folder of checkpoints, curves and the report."""
        return self.output.with_name(self.output.name.removesuffix(".safetensors") + ".training")


REPORT = "training.json"

IRRELEVANT = {
    "backbone": ("name", "card", "refiners", "cell_px", "median_px", METHODS),
    "refiners": ("name", "card", "cell_px", METHODS),
}
"""Settings that do not affect the weights of a stage."""


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Training and validation rows with their label counts."""

    manifest: Manifest
    label_counts: Mapping[Sample, LabelCounts]
    """Label counts of the training and validation rows."""
    fingerprints: Mapping[str, str]
    """Hash of everything that a stage depends on, by the stage's name: a checkpoint with another hash is refused."""

    def of(self, split: str) -> dict[Sample, LabelCounts]:
        """The label_counts of one split."""
        return {sample: one for sample, one in self.label_counts.items() if sample.split == split}

    def part_of(self, n_classes: int, background: int | None) -> tuple[int, ...]:
        """Index of the part of each class; classes in one part are not distinguished by the labels
        (`annotations.partition`).

        background: label set of the background class alone, which painted glass distinguishes from every other.
        """
        label_sets = {found for one in self.label_counts.values() for found in one.counts}
        if background is not None:
            label_sets = {one if one == background else one & ~background for one in label_sets}
        return partition(label_sets, n_classes)


def check_spec(spec: TrainingSpec, *, restart: bool = False) -> dict[str, Any]:
    """Check the data and settings without training; returns rows, groups and pixels by class as plain values."""
    spec = started(spec)
    data = check(spec, restart=restart)
    return {**rows_of(spec.config, data), "classes": [c.name for c in spec.config.class_infos()]}


def started(spec: TrainingSpec) -> TrainingSpec:
    """The specification with the classes in the order of the bundle that it starts from, and without another encoder.

    Raises ConfigError where the classes have other names, BundleError for a file that is no bundle.
    """
    if spec.start is None:
        return spec
    config = in_order_of(spec.config, spec.start)
    return replace(spec, config=replace(config, backbone=replace(config.backbone, encoder=None)))


def rows_of(config: TrainingConfig, data: TrainingData) -> dict[str, Any]:
    """The rows, groups, and labelled pixels by class, of each split."""
    splits = {split: data.of(split) for split in ("train", "validation")}
    counts = {split: np.round(class_pixels(rows, len(config.classes))) for split, rows in splits.items()}
    return {
        "rows": {split: [sample.name for sample in rows] for split, rows in splits.items()},
        "groups": {split: sorted({sample.group for sample in rows}) for split, rows in splits.items()},
        "pixels_by_class": {split: one.astype(int).tolist() for split, one in counts.items()},
    }


def check(spec: TrainingSpec, *, restart: bool = False) -> TrainingData:
    """Everything that can be refused, before anything is trained.

    restart: True if the bundle may be replaced whatever made it.
    """
    if spec.output.suffix != ".safetensors":
        raise ConfigError(f"-o {spec.output} is no name of a bundle; end it with .safetensors")
    if spec.output.is_dir():
        raise ConfigError(f"-o {spec.output} is a folder; give the bundle another name")
    _require_others(spec)
    if spec.heads_only and not (spec.backbone and spec.config.methods):
        raise ConfigError(
            "--heads-only trains the heads of the configuration's `methods` for the bundle of --backbone; give both"
        )
    refuse_below_file(spec.output)
    if not (restart or makes_own(spec)):
        raise StoreError(
            f"{spec.output} exists, and the training in {spec.folder} did not make it; choose another name with -o, or "
            "delete the bundle (--restart starts over and replaces it)"
        )
    _require_even_batches(spec)
    manifest = read_manifest(spec.manifest)
    classes = spec.config.class_infos()
    if spec.backbone is None:
        _require_network(spec.config)
        _require_weights(spec)
    else:
        require_backbone(spec.config, spec.backbone)
    if spec.start is not None:
        require_start(spec.config, spec.start)
    for split in ("train", "validation"):
        if not any(sample.split == split for sample in manifest.samples):
            raise TrainingError(f"{spec.manifest} has no row of split {split!r}; training needs train and validation")
    painted = next((c.name for c in classes if c.value == BACKGROUND_CLASS.value), None)
    label_counts = count_manifest_labels(
        manifest,
        classes,
        spec.config.mpps[-1],
        ("train", "validation"),
        painted=painted if spec.config.augment.glass else None,
    )
    check_rows(manifest, classes, "test")
    data = TrainingData(manifest, label_counts, _fingerprints(spec, label_counts))
    _require_labels(data, spec.config)
    return data


def _require_others(spec: TrainingSpec) -> None:
    """Raise ConfigError where bundles that are taken from exclude each other, or are to be written over."""
    for option, taken in {"--backbone": spec.backbone, "--from": spec.start}.items():
        if taken is not None and taken.expanduser().resolve() == spec.output.resolve():
            raise ConfigError(f"-o {spec.output} is the bundle that {option} takes; give the new one another name")
    if spec.backbone is not None and spec.start is not None:
        raise ConfigError(
            "--backbone keeps a backbone as it is, and --from trains all weights further; give one of the two"
        )


def makes_own(spec: TrainingSpec) -> bool:
    """False if there is a bundle that the training in the specification's folder did not make. Raises StoreError."""
    if not spec.output.exists():
        return True
    made = report_of(spec).get("bundle_sha256")
    # Without a report, the folder is of a training that was ended before it wrote one.
    return spec.folder.is_dir() if made is None else bool(made == _sha256(spec.output))


def report_of(spec: TrainingSpec) -> dict[str, Any]:
    """Content of the training's report; empty where there is none, or a damaged one. Raises StoreError."""
    with storage_errors(spec.folder):
        try:
            report = json.loads((spec.folder / REPORT).read_text())
        except (FileNotFoundError, ValueError):  # damaged: it will be written again
            return {}
    return report if isinstance(report, dict) else {}


def _require_even_batches(spec: TrainingSpec) -> None:
    count = len(devices_of(spec.device))
    stages = {"backbone": spec.config.backbone, "refiners": spec.config.refiners}
    heads = {f"{METHODS}.{name}": one for name, one in spec.config.methods.items() if one is not None}
    for name, stage in {**stages, **heads}.items():
        if stage.batch % count:
            raise ConfigError(
                f"{name}.batch {stage.batch} cannot be parted evenly among {count} devices; give a multiple, or "
                "one device with --device"
            )


def _require_network(config: TrainingConfig) -> None:
    """Build the network once: arguments and encoder weights are refused before hours have gone by."""
    own, n_classes = config.backbone, len(config.classes)
    info = network_info(own.network)
    if not info.trainable:
        raise ConfigError(f"backbone.network {own.network!r} cannot be trained; take that of a bundle with --backbone")
    foreign = package_of(own.network) is not None
    network = unloaded(info, n_classes, own.network_args, weights=bool(own.encoder) or foreign)
    if not any(one.requires_grad for one in network.parameters()):
        raise ConfigError(f"backbone.network {own.network!r} has nothing to learn; choose another")
    if own.encoder:
        load_encoder(network, own.network, own.encoder)
    if own.encoder_learning_rate != 1:
        info.encoder_of(network)
    if foreign:
        probe(info, network, n_classes, own.crop_px)


def _require_weights(spec: TrainingSpec) -> None:
    """Raise ConfigError where a frozen encoder of the house would keep its random weights; others bring their own."""
    own = spec.config.backbone
    fresh = spec.start is None and own.encoder is None and package_of(own.network) is None
    trunk = network_info(own.network).trunk
    if fresh and trunk is not None and trunk.required:
        raise ConfigError(
            f"backbone.network {own.network!r} is a frozen encoder, which learns nothing; name the file of its "
            "published weights (`encoder: FILE` below `backbone`), or a bundle with --from"
        )
    if fresh and own.encoder_learning_rate == 0:
        raise ConfigError(
            "backbone.encoder_learning_rate 0 would freeze an encoder of random weights; give weights with "
            "backbone.encoder or --from, or another learning rate"
        )


ENCODER, LICENCE = "encoder", "licence of the encoder"
"""Entries of a model card."""


def encoder_facts(spec: TrainingSpec) -> dict[str, str]:
    """Entries of the model card on the published weights from which a backbone started: file, SHA-256 and licence.

    Where the weights are those of another bundle, they are that bundle's. Raises StoreError.
    """
    if (taken := spec.backbone or spec.start) is not None:
        return {key: value for key, value in read_spec(taken)[0].card.items() if key in (ENCODER, LICENCE)}
    own = spec.config.backbone
    if own.encoder is None:
        return {}
    trunk = network_info(own.network).trunk
    licence = {LICENCE: trunk.licence} if trunk is not None and trunk.licence else {}
    return {ENCODER: f"{Path(own.encoder).name}, SHA-256 {_sha256(own.encoder)}", **licence}


def _require_labels(data: TrainingData, config: TrainingConfig) -> None:
    n_classes = len(config.classes)
    if not class_pixels(data.of("validation"), n_classes).any():
        raise TrainingError(f"{data.manifest.path}: no validation row has a labelled pixel to choose weights on")
    if len(set(data.part_of(n_classes, None))) < 2:
        raise TrainingError(
            f"{data.manifest.path}: the labels are so ambiguous that no two classes are told "
            "apart; narrow the codings in the labels column, or leave rows out"
        )


def _fingerprints(spec: TrainingSpec, label_counts: Mapping[Sample, LabelCounts]) -> dict[str, str]:
    """Hash of the settings that a stage depends on and of the label counts of the data, wherever the files lie.

    The backbone's hash leaves out the settings of refiners and other methods: with other ones it need not be trained
    again. That of a method's head leaves out those of the refiners and of other heads.
    """
    rows = [
        [
            sample.name,
            sample.group,
            sample.split,
            sample.labels,
            sample.consensus,
            sample.mpp,
            sorted(one.counts.items()),
            *([sample.site] if sample.site else []),
        ]
        for sample, one in label_counts.items()
    ]
    own = spec.config
    # The encoder counts by its content; how pixels are selected is fitted afterwards, on views that do count.
    config = replace(own, backbone=replace(own.backbone, encoder=None), fit=replace(own.fit, select="hard"))
    files = [_sha256(path) for path in (spec.backbone, spec.config.backbone.encoder)]
    files += ["temperatures, too"] if spec.heads_only else []
    files += [f"from {_sha256(spec.start)}"] if spec.start is not None else []
    found = {}
    for stage, irrelevant in IRRELEVANT.items():
        settings = {key: value for key, value in config.to_json().items() if key not in irrelevant}
        text = json.dumps([settings, rows, files], sort_keys=True)
        found[stage] = hashlib.sha256(text.encode()).hexdigest()
    for name, one in own.methods.items():
        text = json.dumps([found["backbone"], name, None if one is None else asdict(one)], sort_keys=True)
        found[stage_of(name)] = hashlib.sha256(text.encode()).hexdigest()
    return found


def stage_of(method: str) -> str:
    """Name of a method's stage in the fingerprints, and of its checkpoint without ".ckpt"."""
    return f"method-{re.sub(r'[^A-Za-z0-9_+-]', '_', method)}"


def _sha256(path: str | Path | None) -> str | None:
    if path is None:
        return None
    with storage_errors(Path(path)), Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
