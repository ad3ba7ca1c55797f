"""The training pipeline on one screen: check the data, train all stages, fit thresholds, write the bundle."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn

from wsi_magnet.dataset.open_sample import SamplePool
from wsi_magnet.errors import ResultBusyError, TrainingError
from wsi_magnet.methods.losses import class_weights
from wsi_magnet.nets.bundle import Bundle, load_bundle, save_bundle
from wsi_magnet.nets.encoder import load_encoder
from wsi_magnet.nets.network import Normalisation
from wsi_magnet.nets.registry import build_network, build_refiner, network_info
from wsi_magnet.nets.spec import read_spec
from wsi_magnet.results.folder import write_json
from wsi_magnet.results.record import versions
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.train.alarms import summary_of
from wsi_magnet.train.backbone import BackboneStage
from wsi_magnet.train.calibrate import Fitter, fit_temperatures
from wsi_magnet.train.checkpoint import load_checkpoint, save_checkpoint
from wsi_magnet.train.config import TrainingConfig
from wsi_magnet.train.data_parallel import Ranks, devices_of, forwarding_progress, run_on
from wsi_magnet.train.frozen_backbone import FrozenBackbone
from wsi_magnet.train.given import Start, network_settings
from wsi_magnet.train.history import History, Row, Watcher, draw_curves, progress_of, to_csv
from wsi_magnet.train.loop import Loop, Setting, resolve_training_precision
from wsi_magnet.train.methods import MethodTraining
from wsi_magnet.train.model_card import describe_bundle, with_methods
from wsi_magnet.train.profile import numbers_of, profile_of, profiled, survey_rows
from wsi_magnet.train.refiners import RefinerStage
from wsi_magnet.train.sampler import CropSampler, class_pixels
from wsi_magnet.train.spec import (
    REPORT,
    TrainingData,
    TrainingSpec,
    check,
    encoder_facts,
    makes_own,
    report_of,
    rows_of,
    stage_of,
    started,
)
from wsi_magnet.train.views import StageData, Windows, validation_views

log = logging.getLogger(__name__)

VALIDATION_PX = 512
"""Side of the validation windows at the finest scale."""

TEMPERATURES = "temperatures.ckpt"
"""File of the backbone's temperatures."""


def train_bundle(spec: TrainingSpec, *, restart: bool = False, watch: Watcher | None = None) -> dict[str, Any]:
    """Train a bundle and write it; a stopped training resumes from its checkpoints.

    Returns the content of `training.json`: figures on the validation rows, data and settings. Raises
    ManifestError, naming the row, ConfigError, TrainingError, BundleError, StoreError.
    """
    spec = started(spec)
    log.info("reading the labels of all rows")
    data = check(spec, restart=restart)
    with storage_errors(spec.folder):
        spec.folder.mkdir(parents=True, exist_ok=True)
    with _locked(spec.folder):
        if restart:
            if not makes_own(spec):  # once it was to be replaced, the resumed training may do so
                _delete_report(spec)
            _delete_checkpoints(spec.folder, data.fingerprints)
        elif finished := _earlier_report(spec, data):
            return {**finished, "done_before": True}
        devices = devices_of(spec.device)
        with forwarding_progress(watch or _ignore, processes=len(devices)) as notify:
            run_on(devices, partial(_train, spec, data, notify))
    return {**report_of(spec), "done_before": False}


def _earlier_report(spec: TrainingSpec, data: TrainingData) -> dict[str, Any] | None:
    """Report of a finished training with the same settings and data, if its bundle is unchanged."""
    if not spec.output.exists():
        return None
    report = report_of(spec)
    wanted = {"fingerprints": dict(data.fingerprints), "config": _as_json(spec.config)}
    same = all(report.get(key) == value for key, value in wanted.items())
    return report if same and report.get("bundle_sha256") == read_spec(spec.output)[1] else None


def _as_json(config: TrainingConfig) -> Any:
    """The configuration after a round trip through JSON."""
    return json.loads(json.dumps(config.to_json()))


def _ignore(stage: str, row: Row, steps: int) -> None:
    """Default watcher: no output."""


def _locked(folder: Path) -> Any:
    lock = FileLock(folder / ".lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        raise ResultBusyError(f"another training is running in {folder}; wait for it, or choose another -o") from None


def _delete_report(spec: TrainingSpec) -> None:
    with storage_errors(spec.folder):
        (spec.folder / REPORT).unlink(missing_ok=True)


def _delete_checkpoints(folder: Path, fingerprints: Mapping[str, str]) -> None:
    """Delete the checkpoints; where settings of refiners or heads alone changed, only theirs."""
    stale = [stage for stage, one in fingerprints.items() if not _can_resume(folder / f"{stage}.ckpt", one)]
    patterns = ["*.ckpt*"] if not stale or "backbone" in stale else [f"{stage}.*" for stage in stale]
    with storage_errors(folder):
        for path in [path for pattern in patterns for path in folder.glob(pattern)]:
            path.unlink()


def _can_resume(checkpoint: Path, fingerprint: str) -> bool:
    """True if a training can resume from a checkpoint, or there is none."""
    try:
        load_checkpoint(checkpoint, fingerprint)
    except TrainingError:
        return False
    return True


def _train(spec: TrainingSpec, data: TrainingData, notify: Watcher, ranks: Ranks, device: torch.device) -> None:
    """One process's training."""
    if spec.threads:
        torch.set_num_threads(spec.threads)
    # Each loader has a pool of its own; the bound is that of all together.
    each = spec.cache_bytes // max(1, spec.loaders)
    with closing(SamplePool(spec.config.class_infos(), max_decoded_bytes=each)) as pool:
        _Pipeline(spec, data, pool, _setting(spec, data, notify, ranks, device)).run()


def _setting(spec: TrainingSpec, data: TrainingData, notify: Watcher, ranks: Ranks, device: torch.device) -> Setting:
    precision = resolve_training_precision(spec.config.precision, device)
    checkpoint = spec.folder / "backbone.ckpt"
    fingerprint = data.fingerprints["backbone"]
    return Setting(ranks, device, precision, spec.config.seed, checkpoint, fingerprint, notify, loaders=spec.loaders)


class _Pipeline:
    """All stages and the fitting, in order."""

    def __init__(self, spec: TrainingSpec, data: TrainingData, pool: SamplePool, setting: Setting) -> None:
        self._spec, self._data, self._setting = spec, data, setting
        config = self._config = spec.config
        n_classes, background = len(config.classes), config.background_set
        windows = Windows(VALIDATION_PX, config.halo_px, config.mpps)
        validation = list(data.of("validation"))
        weights = class_weights(class_pixels(data.of("train"), n_classes), config.class_weight)
        self._stage_data = StageData(
            pool,
            CropSampler(data.of("train"), n_classes, config.class_balance),
            None if weights is None else torch.from_numpy(weights).to(setting.device),
            tuple(validation_views(pool, validation, windows, config.validation_views, background)),
            windows,
            data.part_of(n_classes, background),
            background,
        )
        if spec.loaders:
            pool.close()  # the loaders open rows themselves
        self._network_settings = network_settings(config, spec.backbone, spec.start)
        self._start = Start.of(spec.start)
        self._histories: dict[str, History] = {}
        self._fitting_s = 0.0

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Add the duration of the context to that of fitting."""
        began = time.perf_counter()
        yield
        self._fitting_s += time.perf_counter() - began

    def run(self) -> None:
        """Train, fit, write."""
        if self._spec.heads_only:
            self._run_heads()
        else:
            self._run_stages()

    def _run_stages(self) -> None:
        network = self._backbone()
        views = self._stage_data.views
        unfitted = self._frozen(network, (1.0,) * len(self._config.mpps))
        temperatures = self._temperatures(unfitted)
        frozen = replace(unfitted, temperatures=temperatures)
        modules = self._refiners(frozen)
        methods = self._methods(frozen)
        if not self._setting.ranks.first:
            return
        steps = [modules[0 if self._config.refiners.shared else i] for i in range(len(self._config.mpps) - 1)]
        select, median_px = self._config.fit.select, self._config.median_px
        with self._timed():
            progress = progress_of("thresholds", self._setting.notify)
            fitter = Fitter(
                frozen,
                views,
                self._stage_data.part_of,
                select=select,
                median_px=median_px,
                cell_px=self._config.cell_px,
                progress=progress,
            )
            calibrated = fitter.calibrate(steps)
            fitted = fitter.fit(steps)
            of_methods = self._fitted(methods)
        report = {"refiner_temperature": calibrated, **self._report(temperatures, fitted.miou), **of_methods}
        report["encoder"] = encoder_facts(self._spec)
        found = describe_bundle(self._config, self._network_settings, temperatures, fitted, report)
        bundle = Bundle(found, self._spec.output, "", network.eval(), tuple(one.eval() for one in modules))
        bundle, numbers = self._profiled(bundle, report, fitted.miou)
        parts = [one.cpu() for one in modules]
        _delete_report(self._spec)  # of the bundle that is replaced
        save_bundle(self._spec.output, bundle.spec, network.cpu(), parts, bundle.statistics, methods.weights)
        seconds = {**report["seconds"], "fitting": round(self._fitting_s, 1)}  # the profile included
        self._write({**report, **numbers, "seconds": seconds})

    def _run_heads(self) -> None:
        """Add heads of other methods to a bundle whose own networks and thresholds are kept."""
        given, data = load_bundle(self._spec.backbone, self._setting.device), self._stage_data
        frozen = self._frozen(given.backbone, given.spec.temperature)
        methods = self._methods(frozen)
        if not self._setting.ranks.first:
            return
        with self._timed():
            fitter = Fitter(frozen, data.views, data.part_of, select="hard", median_px=given.spec.median_px)
            miou = fitter.score([given.refiners[i] for i in given.spec.refiner_of], given.spec)
            of_methods = self._fitted(methods)
        report = {**self._report(given.spec.temperature, miou), **of_methods}
        spec, heads = with_methods(given.spec, self._config, report), {**given.heads, **methods.weights}
        _delete_report(self._spec)
        save_bundle(self._spec.output, spec, given.backbone, given.refiners, given.statistics, heads)
        self._write(report)

    def _profiled(
        self, bundle: Bundle, report: Mapping[str, Any], miou: Sequence[float]
    ) -> tuple[Bundle, dict[str, Any]]:
        """The bundle with the profile of its data, and the alarms of its training as plain values."""
        setting = self._setting
        with self._timed():
            progress = progress_of("profile", setting.notify)
            samples = self._data.manifest.samples
            surveys = survey_rows(bundle, self._stage_data.pool, samples, setting.device, progress)
        profile, statistics = profile_of(bundle, surveys, self._data.label_counts)
        best = self._histories["refiners"].best if "refiners" in self._histories else None
        bundle = profiled(bundle, profile, statistics)
        numbers = numbers_of(bundle, report, (miou, best.miou if best else None), surveys, profile)
        return bundle, summary_of(numbers)

    def _backbone(self) -> nn.Module:
        if self._spec.backbone is not None:
            return load_bundle(self._spec.backbone).backbone.to(self._setting.device)
        config = self._config.backbone
        torch.manual_seed(self._config.seed)
        network = build_network(config.network, len(self._config.classes), **config.network_args)
        if config.encoder:
            load_encoder(network, config.network, config.encoder)
        if self._start:
            self._start.begin(network)
        stage = BackboneStage(network, self._config, self._stage_data, self._setting, self._normalisation)
        self._histories["backbone"] = Loop(stage, self._setting, stage.encoder).run()
        return network

    @property
    def _normalisation(self) -> Normalisation:
        return Normalisation(self._network_settings["mean"], self._network_settings["std"])

    def _frozen(self, network: nn.Module, temperatures: Sequence[float]) -> FrozenBackbone:
        info, windows = network_info(self._config.backbone.network), self._stage_data.windows
        return FrozenBackbone.of(network, temperatures, windows, self._setting, info, self._normalisation)

    def _temperatures(self, unfitted: FrozenBackbone) -> tuple[float, ...]:
        """Temperatures of the backbone, saved for a resumed training."""
        path, fingerprint = self._spec.folder / TEMPERATURES, self._data.fingerprints["backbone"]
        saved = load_checkpoint(path, fingerprint)
        if saved is not None:
            return tuple(saved["temperatures"])
        notify = self._setting.notify if self._setting.ranks.first else _ignore
        with self._timed():
            found = fit_temperatures(unfitted, self._stage_data.views, progress_of("temperatures", notify))
        if self._setting.ranks.first:
            save_checkpoint(path, {"temperatures": list(found)}, fingerprint)
        return found

    def _refiners(self, frozen: FrozenBackbone) -> list[nn.Module]:
        torch.manual_seed(self._config.seed + 1)
        count = 1 if self._config.refiners.shared else len(self._config.mpps) - 1
        modules = nn.ModuleList(
            build_refiner(self._config.refiners.module, len(self._config.classes)) for _ in range(count)
        )
        if self._start:
            self._start.begin_refiners(modules)
        setting = self._setting_for("refiners")
        stage = RefinerStage(modules, self._config, self._stage_data, frozen, setting)
        self._histories["refiners"] = Loop(stage, setting).run()
        return list(modules)

    def _methods(self, frozen: FrozenBackbone) -> MethodTraining:
        """Other methods with trained heads."""
        heads = self._start.bundle.heads if self._start else {}
        found = MethodTraining(
            self._config, self._stage_data, frozen, lambda name: self._setting_for(stage_of(name)), heads
        )
        self._histories |= found.train()
        return found

    def _setting_for(self, stage: str) -> Setting:
        """Setting with a stage's own checkpoint."""
        checkpoint, fingerprint = self._spec.folder / f"{stage}.ckpt", self._data.fingerprints[stage]
        return replace(self._setting, checkpoint=checkpoint, fingerprint=fingerprint)

    def _fitted(self, methods: MethodTraining) -> dict[str, Any]:
        """Fit other methods; their entries of the report, none without methods."""
        found = methods.fit(progress_of("methods", self._setting.notify))
        entries = {
            name: {"validation_miou": round(one.miou, 4), "parameters": dict(one.parameters)}
            for name, one in found.items()
        }
        return {"methods": entries, "upsampled_miou": round(methods.upsampled_miou(), 4)} if entries else {}

    def _report(self, temperatures: tuple[float, ...], miou: tuple[float, ...]) -> dict[str, Any]:
        return {
            "config": self._config.to_json(),
            "fingerprints": dict(self._data.fingerprints),
            **({"from": self._start.facts(self._config.methods)} if self._start else {}),
            **rows_of(self._config, self._data),
            "temperature": temperatures,
            "validation_miou_after_scale": [round(one, 4) for one in miou],
            "best_steps": {name: one.best.step for name, one in self._histories.items() if one.best},
            "seconds": {
                **{name: round(sum(r.seconds for r in one.rows), 1) for name, one in self._histories.items()},
                "fitting": round(self._fitting_s, 1),
            },
            "precision": self._setting.precision,
            "threads": torch.get_num_threads(),
            "device": str(self._setting.device),
            "software": versions(),
        }

    def _write(self, report: Mapping[str, Any]) -> None:
        """Write curves and report of the bundle that is there."""
        folder = self._spec.folder
        with storage_errors(folder):
            (folder / "curves.csv").write_text(to_csv(self._histories))
            draw_curves(self._histories, folder / "curves.png")
        write_json(folder / REPORT, {**report, "bundle_sha256": read_spec(self._spec.output)[1]})
