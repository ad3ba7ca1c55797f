"""The whole training on one screen: check the data, train both stages, fit what is fitted, write the bundle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import nn

from wsi_magnet.annotations.partition import partition
from wsi_magnet.dataset.checks import survey_manifest
from wsi_magnet.dataset.manifest import Manifest, read_manifest
from wsi_magnet.dataset.opening import SamplePool
from wsi_magnet.dataset.sample import Sample
from wsi_magnet.dataset.survey import Survey
from wsi_magnet.errors import ConfigError, ResultBusyError, TrainingError
from wsi_magnet.nets.bundle import load_bundle, save_bundle
from wsi_magnet.nets.encoder import load_encoder
from wsi_magnet.nets.refiner import RefinementModule
from wsi_magnet.nets.registry import build_network
from wsi_magnet.nets.spec import read_spec
from wsi_magnet.provenance import versions
from wsi_magnet.result import write_json
from wsi_magnet.store import explained
from wsi_magnet.train.backbone import BackboneStage
from wsi_magnet.train.config import TrainingConfig
from wsi_magnet.train.curves import draw_curves
from wsi_magnet.train.describe import describe_bundle
from wsi_magnet.train.draw import Drawer, class_pixels
from wsi_magnet.train.fit import Fitter, fit_temperatures
from wsi_magnet.train.frozen import Frozen
from wsi_magnet.train.history import History, Row, to_csv
from wsi_magnet.train.loop import Loop, Setting, resolve_training_precision
from wsi_magnet.train.losses import class_weights
from wsi_magnet.train.material import Material
from wsi_magnet.train.ranks import Ranks, devices_of, run_on
from wsi_magnet.train.refiners import RefinerStage
from wsi_magnet.train.views import Windows, validation_views

VALIDATION_PX = 512
"""Side of the windows in which validation rows are looked at, at the finest scale."""

MOST_OPEN = 256
"""Slides and annotations that are kept open at a time."""

Watcher = Callable[[str, Row, int], None]
"""Told the stage, how a step went, and the number of steps."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made of what, and where; small, and can be sent to another process."""

    manifest: Path
    config: TrainingConfig
    output: Path
    device: str = "auto"
    threads: int | None = None
    """Of torch; as many as the machine has where left out. The weights depend on it, by rounding."""
    backbone: Path | None = None
    """A bundle whose backbone is taken instead of training one."""

    @property
    def folder(self) -> Path:
        """Checkpoints, curves, and what the training was."""
        return self.output.with_name(self.output.name.removesuffix(".safetensors") + ".training")


@dataclass(frozen=True, eq=False)
class Data:
    """What is learned from, and what it is judged on."""

    manifest: Manifest
    surveys: Mapping[Sample, Survey]
    """Of the training and the validation rows."""
    fingerprint: str

    def of(self, split: str) -> dict[Sample, Survey]:
        """The surveys of one split."""
        return {sample: one for sample, one in self.surveys.items() if sample.split == split}


def train_bundle(order: Order, *, restart: bool = False, watch: Watcher | None = None) -> dict[str, Any]:
    """Train a bundle and write it; a training that was stopped goes on from its checkpoints.

    Returns what is also written to `training.json`: figures on the validation rows, and what went into it. Raises
    ManifestError, naming the row, ConfigError, TrainingError, BundleError, StoreError.
    """
    data = _check(order)
    with explained(order.folder):
        order.folder.mkdir(parents=True, exist_ok=True)
    with _claimed(order.folder):
        if restart:
            _forget(order.folder)
        run_on(devices_of(order.device), partial(_train, order, data, watch))
    report: dict[str, Any] = json.loads((order.folder / "training.json").read_text())
    return report


def check_order(order: Order) -> dict[str, Any]:
    """What there is to learn from, as plain values; everything that can be refused is, and nothing is trained."""
    data = _check(order)
    return {**_rows(order.config, data), "classes": [c.name for c in order.config.class_infos()]}


def _rows(config: TrainingConfig, data: Data) -> dict[str, Any]:
    """The rows, groups, and labelled pixels by class, of each split."""
    splits = {split: data.of(split) for split in ("train", "validation")}
    counts = {split: np.round(class_pixels(rows, len(config.classes))) for split, rows in splits.items()}
    return {
        "rows": {split: [sample.name for sample in rows] for split, rows in splits.items()},
        "groups": {split: sorted({sample.group for sample in rows}) for split, rows in splits.items()},
        "pixels_by_class": {split: one.astype(int).tolist() for split, one in counts.items()},
    }


def _check(order: Order) -> Data:
    """Everything that can be refused, before anything is trained."""
    if order.output.suffix != ".safetensors":
        raise ConfigError(f"-o {order.output} is no name of a bundle; end it with .safetensors")
    devices_of(order.device)
    manifest = read_manifest(order.manifest)
    classes = order.config.class_infos()
    if order.backbone is not None:
        _require_fit(order)
    for split in ("train", "validation"):
        if not any(sample.split == split for sample in manifest.samples):
            raise TrainingError(f"{order.manifest} has no row of split {split!r}; training needs train and validation")
    surveys = survey_manifest(manifest, classes, order.config.mpps[-1], ("train", "validation"))
    return Data(manifest, surveys, _fingerprint(order, surveys))


def _require_fit(order: Order) -> None:
    spec, _ = read_spec(order.backbone)
    wanted = [(c.name, c.value) for c in order.config.class_infos()]
    found = [(c.name, c.value) for c in spec.classes]
    if found != wanted or spec.network != order.config.backbone.network or spec.mpps != order.config.mpps:
        raise ConfigError(
            f"bundle {order.backbone} has network {spec.network!r}, scales {list(spec.mpps)} and classes {found}; "
            f"the configuration says {order.config.backbone.network!r}, {list(order.config.mpps)} and {wanted}"
        )


def _fingerprint(order: Order, surveys: Mapping[Sample, Survey]) -> str:
    """Of the configuration and of what was found in the data, wherever it lies."""
    rows = [
        [
            sample.name,
            sample.group,
            sample.split,
            sample.labels,
            sample.consensus,
            sample.mpp,
            sorted(one.counts.items()),
        ]
        for sample, one in surveys.items()
    ]
    taken = None if order.backbone is None else read_spec(order.backbone)[1]
    text = json.dumps([order.config.to_json(), rows, taken], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _claimed(folder: Path) -> Any:
    lock = FileLock(folder / ".lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        raise ResultBusyError(f"another training is at work in {folder}; wait for it, or choose another -o") from None


def _forget(folder: Path) -> None:
    with explained(folder):
        for path in folder.glob("*.ckpt*"):
            path.unlink()


def _train(order: Order, data: Data, watch: Watcher | None, ranks: Ranks, device: torch.device) -> None:
    """One process's training."""
    if order.threads:
        torch.set_num_threads(order.threads)
    with closing(SamplePool(order.config.class_infos(), most_open=MOST_OPEN)) as pool:
        _Training(order, data, pool, _setting(order, data, watch, ranks, device)).run()


def _setting(order: Order, data: Data, watch: Watcher | None, ranks: Ranks, device: torch.device) -> Setting:
    precision = resolve_training_precision(order.config.precision, device)
    tell = watch or (lambda stage, row, steps: None)
    checkpoint = order.folder / "backbone.ckpt"
    return Setting(ranks, device, precision, order.config.seed, checkpoint, data.fingerprint, tell)


class _Training:
    """Both stages and the fitting, in order."""

    def __init__(self, order: Order, data: Data, pool: SamplePool, setting: Setting) -> None:
        self._order, self._data, self._setting = order, data, setting
        config = self._config = order.config
        n_classes = len(config.classes)
        windows = Windows(VALIDATION_PX, config.halo_px, len(config.mpps))
        validation = list(data.of("validation"))
        weights = class_weights(class_pixels(data.of("train"), n_classes), config.class_weight)
        self._material = Material(
            pool,
            Drawer(data.of("train"), n_classes, config.class_balance),
            None if weights is None else torch.from_numpy(weights).to(setting.device),
            tuple(validation_views(pool, validation, config.mpps, windows, config.fit.most_windows)),
            windows,
            partition({found for one in data.surveys.values() for found in one.counts}, n_classes),
        )
        self._histories: dict[str, History] = {}

    def run(self) -> None:
        """Train, fit, write."""
        network = self._backbone()
        windows, views = self._material.windows, self._material.views
        unfitted = Frozen.of(network, (1.0,) * len(self._config.mpps), windows, self._setting)
        temperatures = fit_temperatures(unfitted, views)
        frozen = replace(unfitted, temperatures=temperatures)
        modules = self._refiners(frozen)
        if not self._setting.ranks.first:
            return
        steps = [modules[0 if self._config.refiners.shared else i] for i in range(len(self._config.mpps) - 1)]
        select, median_px = self._config.fit.select, self._config.median_px
        fitter = Fitter(frozen, views, self._material.part_of, select=select, median_px=median_px)
        calibrated = fitter.calibrate(steps)
        fitted = fitter.fit(steps)
        report = self._report(temperatures, calibrated, fitted.miou)
        spec = describe_bundle(self._config, temperatures, fitted, report)
        save_bundle(self._order.output, spec, network.cpu(), [one.cpu() for one in modules])
        self._write(report)

    def _backbone(self) -> nn.Module:
        if self._order.backbone is not None:
            return load_bundle(self._order.backbone).backbone.to(self._setting.device)
        config = self._config.backbone
        torch.manual_seed(self._config.seed)
        network = build_network(config.network, len(self._config.classes), **config.network_args)
        if config.encoder:
            load_encoder(network, config.network, config.encoder)
        stage = BackboneStage(network, self._config, self._material, self._setting)
        self._histories["backbone"] = Loop(stage, self._setting).run()
        return network

    def _refiners(self, frozen: Frozen) -> list[nn.Module]:
        torch.manual_seed(self._config.seed + 1)
        count = 1 if self._config.refiners.shared else len(self._config.mpps) - 1
        modules = nn.ModuleList(RefinementModule(len(self._config.classes)) for _ in range(count))
        setting = replace(self._setting, checkpoint=self._order.folder / "refiners.ckpt")
        stage = RefinerStage(modules, self._config, self._material, frozen, setting)
        self._histories["refiners"] = Loop(stage, setting).run()
        return list(modules)

    def _report(
        self, temperatures: tuple[float, ...], calibrated: tuple[float, ...], miou: tuple[float, ...]
    ) -> dict[str, Any]:
        return {
            "config": self._config.to_json(),
            "fingerprint": self._data.fingerprint,
            **_rows(self._config, self._data),
            "temperature": temperatures,
            "refiner_temperature": calibrated,
            "validation_miou_after_scale": [round(one, 4) for one in miou],
            "best_steps": {name: one.best.step for name, one in self._histories.items() if one.best},
            "seconds": {name: round(sum(r.seconds for r in one.rows), 1) for name, one in self._histories.items()},
            "precision": self._setting.precision,
            "threads": torch.get_num_threads(),
            "device": str(self._setting.device),
            "software": versions(),
        }

    def _write(self, report: Mapping[str, Any]) -> None:
        folder = self._order.folder
        with explained(folder):
            (folder / "curves.csv").write_text(to_csv(self._histories))
            draw_curves(self._histories, folder / "curves.png")
        write_json(folder / "training.json", report)
