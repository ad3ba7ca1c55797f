"""Stage 3: the heads of other methods learn on the frozen backbone, and parameters that are not learned are fitted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from wsi_magnet.errors import ConfigError
from wsi_magnet.methods.method import Method, MethodInfo
from wsi_magnet.methods.registry import method_class
from wsi_magnet.nets.checkpoint import load_exactly
from wsi_magnet.nets.registry import feature_channels
from wsi_magnet.train.checkpoint import load_checkpoint, save_checkpoint
from wsi_magnet.train.config import TrainingConfig
from wsi_magnet.train.frozen_backbone import FrozenBackbone
from wsi_magnet.train.history import History
from wsi_magnet.train.loop import Loop, Setting
from wsi_magnet.train.method_maps import ValidationMaps, outputs_on, patch_maps
from wsi_magnet.train.views import DrawViews, StageData, View, Windows, to_sets

log = logging.getLogger(__name__)

STAGE_SEED = 5
LOSS_SEED = 6
HEAD_SEED = 7

FITTED_VIEWS = 16
"""Number of validation views on which parameters are chosen, evenly taken: some methods take seconds for each."""

Progress = Callable[[int, int], None]
"""Callback with finished and all parts of the work."""


class MethodStage:
    """A `loop.Stage`: the head of one method. It computes in fp32, as in a run, and only the backbone in less."""

    def __init__(
        self, method: Method, training: TrainingConfig, data: StageData, validation: ValidationMaps, setting: Setting
    ) -> None:
        """method: with a head, which learns in place."""
        self.name = method.info.name
        settings, head = training.methods[self.name], method.head
        assert settings is not None
        assert head is not None
        self.config, self.learned = settings, head
        self._method, self._training, self._data, self._setting = method, training, data, setting
        self._validation = validation
        self._windows = Windows(settings.window_px, training.halo_px, training.mpps)
        self._frozen = replace(validation.frozen, windows=self._windows)
        # The same views for every method.
        augment = settings.augment or training.augment
        self.draw = DrawViews(data.without_views(), self._windows, augment, (training.seed, STAGE_SEED))

    def loss(self, batch: list[View], step: int) -> Tensor:
        """The method's own loss on whole windows."""
        needs = self._method.info.needs
        maps = patch_maps(batch, outputs_on(self._frozen, batch, needs), needs, self._windows)
        sets = to_sets([view.sets[-1] for view in batch], self._setting.device)
        first = self._setting.ranks.mine(self.config.batch).start
        rng = torch.Generator().manual_seed(_seed(self._training.seed, LOSS_SEED, step, first))
        return self._method.loss(maps, sets, rng, self._data.weights)

    def validate(self) -> float:
        """MIoU of the method at the finest scale."""
        views = len(self._validation)
        found = self._validation.miou(self._method, range(views), lambda done: self._setting.validated(done, views))
        self._setting.validated(views, views)
        return found


def fresh_method(name: str, training: TrainingConfig, device: torch.device) -> Method:
    """A method with default parameters and, where it learns, a head of fresh weights, which depend on the training's
    seed and the name alone. Raises ConfigError for a method that needs a head and builds none.
    """
    kind, n_classes, backbone = method_class(name), len(training.classes), training.backbone
    if not kind.info.needs.head:
        return kind(n_classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(training.seed, HEAD_SEED, crc32(name.encode())))
        head = kind.build_head(n_classes, feature_channels(backbone.network, **backbone.network_args))
    if head is None:
        raise ConfigError(f"method {name} needs a head and builds none; leave it out of `methods`")
    return kind(n_classes, None, head.to(device))


def _seed(*parts: int) -> int:
    return int(np.random.default_rng(parts).integers(2**63))


@dataclass(frozen=True, slots=True)
class FittedMethod:
    """Fitted parameters of a method, and its figure."""

    parameters: Mapping[str, float]
    """Parameters that were chosen, without those that keep their defaults in any case."""
    miou: float
    """MIoU on all validation views, 0 to 1."""


def fit_method(method: Method, validation: ValidationMaps, notify: Callable[[], None]) -> FittedMethod:
    """Choose the parameters of `MethodInfo.fit` by mIoU, one after the other, from the defaults.

    The default is a candidate too, and stays where nothing is better. notify: called after each view, `parts_of` times.
    """
    info, few = method.info, _evenly(len(validation))
    chosen = {name: method.parameters[name] for name in info.fit}

    def miou(parameters: Mapping[str, float], views: Sequence[int]) -> float:
        candidate = type(method)(method.n_classes, {**method.parameters, **parameters}, method.head)
        found = validation.miou(candidate, views, lambda done: notify() if done else None)
        notify()
        return found

    if not chosen:
        return FittedMethod({}, miou({}, range(len(validation))))
    best = miou(chosen, few)
    for name, values in info.fit.items():
        for value in _others(values, info.parameters[name]):
            candidate = {**chosen, name: value}
            found = miou(candidate, few)
            if round(found, 5) > round(best, 5):
                best, chosen = found, candidate
    log.debug("%s: %s, mIoU %.4f", info.name, chosen, best)
    return FittedMethod(chosen, best if len(few) == len(validation) else miou(chosen, range(len(validation))))


def parts_of(info: MethodInfo, views: int) -> int:
    """Number of views that the fitting of a method computes. views: number of validation views."""
    if not info.fit:
        return views
    candidates = 1 + sum(len(_others(values, info.parameters[name])) for name, values in info.fit.items())
    few = len(_evenly(views))
    return candidates * few + (views if few < views else 0)


def _others(values: Sequence[float], default: float) -> list[float]:
    return [value for value in dict.fromkeys(values) if value != default]


def _evenly(views: int) -> list[int]:
    step = max(1.0, views / FITTED_VIEWS)
    return [int(i * step) for i in range(min(views, FITTED_VIEWS))]


class MethodTraining:
    """Training and fitting of all methods of a configuration."""

    def __init__(
        self,
        training: TrainingConfig,
        data: StageData,
        frozen: FrozenBackbone,
        setting_of: Callable[[str], Setting],
        heads: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        """frozen: with temperatures, and the windows of the validation views. setting_of: setting by a method's name,
        with its own checkpoint and fingerprint. heads: weights that heads begin with, by method; others are fresh.
        Raises BundleError where they do not fit.
        """
        self._training, self._data, self._setting_of = training, data, setting_of
        device = frozen.setting.device
        self._methods = {name: fresh_method(name, training, device) for name in training.methods}
        for name, weights in (heads or {}).items():
            if name in self._methods and (head := self._methods[name].head) is not None:
                load_exactly(head, {key: one.clone() for key, one in weights.items()}, f"head of {name}")
                head.to(device)
        needs = [method.info.needs for method in self._methods.values()]
        if any(one.features or one.context for one in needs):
            frozen = frozen.with_features(training.backbone.network)
        self._validation = ValidationMaps(frozen, data.views, data.part_of, needs)

    def train(self) -> dict[str, History]:
        """Train the heads, one after the other; returns their histories by the name of the method."""
        histories = {}
        for name, method in self._methods.items():
            if method.head is not None:
                setting = self._setting_of(name)
                stage = MethodStage(method, self._training, self._data, self._validation, setting)
                histories[name] = Loop(stage, setting).run()
        return histories

    def fit(self, progress: Progress) -> dict[str, FittedMethod]:
        """Fit the methods, by name; each is saved beside its checkpoint, and not fitted again."""
        saved = {name: self._saved(name) for name in self._methods}
        infos = {name: method.info for name, method in self._methods.items()}
        views, done = len(self._validation), 0
        parts = sum(parts_of(infos[name], views) for name, one in saved.items() if one is None)

        def notify() -> None:
            nonlocal done
            done += 1
            progress(done, parts)

        found = {}
        for name, method in self._methods.items():
            one = saved[name]
            if one is None:
                log.info("fitting %s", name)
                one = fit_method(method, self._validation, notify)
                self._save(name, one)
            found[name] = one
        return found

    def upsampled_miou(self) -> float:
        """MIoU of the coarsest result on the validation views, upsampled to the finest scale, 0 to 1."""
        return self._validation.upsampled_miou()

    @property
    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Weights of the methods that learn, by the method's name."""
        return {name: method.head.state_dict() for name, method in self._methods.items() if method.head is not None}

    def _saved(self, name: str) -> FittedMethod | None:
        """An earlier fitting among the same values."""
        path, fingerprint = self._fitted(name)
        saved = load_checkpoint(path, fingerprint)
        if saved is None or saved["candidates"] != _candidates(self._methods[name].info):
            return None
        return FittedMethod(saved["parameters"], saved["miou"])

    def _save(self, name: str, fitted: FittedMethod) -> None:
        path, fingerprint = self._fitted(name)
        candidates = _candidates(self._methods[name].info)
        save_checkpoint(path, {**asdict(fitted), "candidates": candidates}, fingerprint)

    def _fitted(self, name: str) -> tuple[Path, str]:
        """File of a fitting, and the fingerprint of what it depends on."""
        setting = self._setting_of(name)
        return setting.checkpoint.with_suffix(".fitted.ckpt"), setting.fingerprint


def _candidates(info: MethodInfo) -> dict[str, list[float]]:
    """Default and values of each parameter that is fitted."""
    return {name: [info.parameters[name], *values] for name, values in info.fit.items()}
