"""Heads of other methods: they learn, resume bit for bit, and are kept unless their settings changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from tests.few import slow_except
from tests.train.made import (
    SMALL_VALIDATION_PX,
    Stopped,
    quick_survey,
    quick_training,
    same,
    setting_of,
    stopping_at,
    tiny_config,
    write_data,
)
from tests.train.test_data_parallel import TWO
from tests.train.test_method_maps import WINDOWS, frozen_of, view_of
from tests.train.toy_methods import Blend, Dark, registered
from wsi_magnet.cli.tables import training_text
from wsi_magnet.dataset.open_sample import SamplePool
from wsi_magnet.errors import ConfigError, TrainingError
from wsi_magnet.methods.build import build_method
from wsi_magnet.methods.method import Needs
from wsi_magnet.nets.bundle import load_bundle
from wsi_magnet.nets.spec import head_parameters, read_spec
from wsi_magnet.train import methods as stage
from wsi_magnet.train import pipeline as making
from wsi_magnet.train import spec as training_spec
from wsi_magnet.train.config import MethodConfig, TrainingConfig
from wsi_magnet.train.history import Row
from wsi_magnet.train.method_maps import ValidationMaps
from wsi_magnet.train.methods import MethodStage, fit_method, fresh_method, parts_of
from wsi_magnet.train.pipeline import train_bundle
from wsi_magnet.train.sampler import CropSampler
from wsi_magnet.train.spec import TrainingSpec, check, check_spec, stage_of
from wsi_magnet.train.views import StageData

HEAD = MethodConfig(
    steps=4, batch=2, learning_rate=0.05, validate_every=2, checkpoint_every=2, window_px=64, average=0.5
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Small validation views, no picture, and both toys in the registry."""
    with quick_training(), registered():
        yield


def config_of(**changes: Any) -> TrainingConfig:
    """Two scales, a few steps, both methods."""
    values = {"mpps": (2.0, 1.0), "backbone": {"steps": 2}, "refiners": {"steps": 2}, "halo_px": 16}
    return tiny_config(**{**values, "methods": {"Blend": HEAD, "dark": None}, **changes})


def order_of(manifest: Path, folder: Path, config: TrainingConfig, **options: Any) -> TrainingSpec:
    return TrainingSpec(manifest, config, folder / "b.safetensors", device="cpu", **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TrainingSpec:
    """A training that has ended."""
    folder = tmp_path_factory.mktemp("made")
    order = order_of(write_data(folder), folder, config_of())
    train_bundle(order)
    return order


def copied(made: TrainingSpec, folder: Path, config: TrainingConfig | None = None) -> TrainingSpec:
    """A copy of a training that has ended."""
    copy = replace(made, output=folder / made.output.name, config=config or made.config)
    shutil.copyfile(made.output, copy.output)
    shutil.copytree(made.folder, copy.folder)
    return copy


class Seen:
    """A watcher that notes stages, and the steps of their heads."""

    def __init__(self) -> None:
        self.steps: dict[str, list[int]] = {}

    def __call__(self, name: str, row: Row, steps: int) -> None:
        """Note a step."""
        self.steps.setdefault(name, []).append(row.step)


# ---- the stage ------------------------------------------------------------------------------------------------------


def stage_on(folder: Path, training: TrainingConfig) -> MethodStage:
    """The stage of the head, on views that are handed to it."""
    views = tuple(view_of(WINDOWS, seed) for seed in (0, 9))
    nothing = cast(SamplePool, None), cast(CropSampler, None)
    data = StageData(*nothing, weights=None, views=views, windows=WINDOWS, part_of=(0, 1), background=None)
    validation = ValidationMaps(frozen_of(folder), views, (0, 1), [Blend.info.needs])
    return MethodStage(fresh_method("Blend", training, CPU), training, data, validation, setting_of(folder))


def training_of(**changes: Any) -> TrainingConfig:
    return tiny_config(halo_px=16, methods={"Blend": replace(HEAD, **changes)})


def test_the_head_learns_and_the_backbone_does_not(tmp_path: Path) -> None:
    one = stage_on(tmp_path, training_of())
    optimizer, batch = torch.optim.Adam(one.learned.parameters(), 0.2), [view_of(WINDOWS, 20), view_of(WINDOWS, 30)]
    before = {key: tensor.clone() for key, tensor in one._frozen.network.state_dict().items()}
    first, miou = one.loss(batch, 0).item(), one.validate()
    for step in range(12):
        optimizer.zero_grad()
        one.loss(batch, step).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in one.learned.parameters())
        optimizer.step()
    assert one.loss(batch, 0).item() < first / 2
    assert one.validate() > max(0.9, miou)
    assert same(before, one._frozen.network.state_dict())
    assert all(p.grad is None for p in one._frozen.network.parameters())


def test_chance_is_that_of_the_step_alone(tmp_path: Path) -> None:
    one, batch = stage_on(tmp_path, training_of()), [view_of(WINDOWS, 20)]
    first, again, other = (one.loss(batch, step).item() for step in (3, 3, 4))
    assert first == again != other


def test_a_head_depends_on_the_seed_and_its_own_name_alone() -> None:
    first, again = (fresh_method("Blend", config_of(methods=given), CPU) for given in ({"Blend": HEAD}, {}))
    other = fresh_method("Blend", config_of(seed=9), CPU)
    assert first.head is not None
    assert again.head is not None
    assert other.head is not None
    assert same(first.head.state_dict(), again.head.state_dict())
    assert not same(first.head.state_dict(), other.head.state_dict())


def test_a_method_that_builds_no_head_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Blend, "build_head", classmethod(lambda cls, n_classes, feature_channels: None))
    with pytest.raises(ConfigError, match="Blend needs a head and builds none; leave it out"):
        fresh_method("Blend", config_of(), CPU)


# ---- fitting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fitted_views", [16, 2])
def test_fitted_values_are_the_best_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fitted_views: int) -> None:
    monkeypatch.setattr(stage, "FITTED_VIEWS", fitted_views)
    views = [view_of(WINDOWS, seed) for seed in (0, 9, 40)]
    validation, parts = ValidationMaps(frozen_of(tmp_path), views, (0, 1), [Needs()]), []
    found = fit_method(Dark(2), validation, lambda: parts.append(1))
    assert len(parts) == parts_of(Dark.info, 3) == (6 * 3 if fitted_views == 16 else 6 * 2 + 3)
    chosen = range(3) if fitted_views == 16 else (0, 1)
    brute = {
        (threshold, weight): validation.miou(
            Dark(2, {"threshold": threshold, "weight": weight}), chosen, lambda done: None
        )
        for threshold, weight in product(*Dark.info.fit.values())
    }
    assert brute[found.parameters["threshold"], found.parameters["weight"]] == max(brute.values())
    assert max(brute.values()) > min(brute.values()) + 0.1
    assert found.parameters.keys() == {"threshold", "weight"}
    best = Dark(2, found.parameters)
    assert found.miou == validation.miou(best, range(3), lambda done: None)


def test_defaults_stay_where_nothing_is_better(tmp_path: Path) -> None:
    views = [replace(view_of(WINDOWS), sets=tuple(np.full((64 >> 2 - s,) * 2, 3, np.uint32) for s in range(3)))]
    validation = ValidationMaps(frozen_of(tmp_path), views, (0, 1), [Needs()])
    assert fit_method(Dark(2), validation, lambda: None).parameters == {"threshold": 0.1, "weight": 0.4}


# ---- a whole training -----------------------------------------------------------------------------------------------


def test_the_bundle_has_heads_and_fitted_values(made: TrainingSpec) -> None:
    bundle = load_bundle(made.output)
    assert list(bundle.spec.methods) == ["Blend", "Dark"]
    assert bundle.spec.methods["Blend"] == {}
    assert bundle.spec.methods["Dark"].keys() == {"threshold", "weight"}
    assert build_method(bundle, "Dark").parameters == {**bundle.spec.methods["Dark"], "unused": 1.0}
    assert build_method(bundle, "Blend").head is not None
    assert head_parameters(made.output) == {"Blend": 2 * (9 + 12) + 2, "Dark": 0}


def test_report_card_and_curves_have_the_methods(made: TrainingSpec) -> None:
    report = made_report(made)
    assert report["methods"].keys() == {"Blend", "Dark"}
    assert report["methods"]["Dark"]["parameters"] == read_spec(made.output)[0].methods["Dark"]
    assert report["best_steps"]["Blend"] in (2, 4)
    assert list(report["seconds"]) == ["backbone", "refiners", "Blend", "fitting"]
    mious = [f"{name} {100 * one['validation_miou']:.1f}" for name, one in report["methods"].items()]
    downsample, magnet = report["upsampled_miou"], report["validation_miou_after_scale"][-1]
    card = read_spec(made.output)[0].card["validation mIoU in percent, of other methods"]
    assert card == f"{', '.join(mious)}; Downsample {100 * downsample:.1f}, MagNet {100 * magnet:.1f}"
    rows = [line.split(",")[:2] for line in (made.folder / "curves.csv").read_text().splitlines()]
    assert [step for name, step in rows if name == "Blend"] == ["1", "2", "3", "4"]


def test_the_report_has_what_the_head_of_the_bundle_is_worth(made: TrainingSpec) -> None:
    report = made_report(made)
    lines = (line.split(",") for line in (made.folder / "curves.csv").read_text().splitlines())
    mious = {line[1]: line[4] for line in lines if line[0] == "Blend"}
    best = float(mious[str(report["best_steps"]["Blend"])])
    assert report["methods"]["Blend"]["validation_miou"] == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "step"), slow_except([("Blend", 3)], [("Blend", 1), ("Blend", 3), ("methods", 3), ("methods", 5)])
)
def test_stopped_anywhere_it_goes_on_to_the_same_file(made: TrainingSpec, tmp_path: Path, name: str, step: int) -> None:
    order = copied(made, tmp_path)
    order.output.unlink()
    for path in order.folder.glob("method-*"):
        path.unlink()
    with pytest.raises(Stopped):
        train_bundle(order, watch=stopping_at(name, step))
    train_bundle(order)
    assert order.output.read_bytes() == made.output.read_bytes()
    assert (order.folder / "curves.csv").read_bytes() == (made.folder / "curves.csv").read_bytes()


@pytest.mark.slow
def test_a_finished_fitting_is_not_repeated(made: TrainingSpec, tmp_path: Path) -> None:
    order, seen = copied(made, tmp_path), Seen()
    order.output.unlink()
    (order.folder / "method-Dark.fitted.ckpt").unlink()
    train_bundle(order, watch=seen)
    views = len(seen.steps["methods"])
    assert views == parts_of(Dark.info, 3), "that of the other method is known"
    assert order.output.read_bytes() == made.output.read_bytes()


@pytest.mark.slow
def test_other_candidates_are_fitted_again(made: TrainingSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order, seen = copied(made, tmp_path), Seen()
    order.output.unlink()
    monkeypatch.setattr(Dark, "info", replace(Dark.info, fit={"weight": (0.2, 0.4)}))
    train_bundle(order, watch=seen)
    assert "methods" in seen.steps
    assert read_spec(order.output)[0].methods["Dark"].keys() == {"weight"}


def test_unchanged_heads_are_not_trained_again(made: TrainingSpec, tmp_path: Path) -> None:
    changed = config_of(methods={"Blend": replace(HEAD, learning_rate=0.01), "Dark": None})
    order, seen = copied(made, tmp_path, changed), Seen()
    with pytest.raises(TrainingError, match=r"method-Blend\.ckpt belongs to another configuration"):
        train_bundle(order)
    train_bundle(order, restart=True, watch=seen)
    assert seen.steps.keys() == {"Blend", "validation", "thresholds", "methods", "profile"}
    assert len(seen.steps["methods"]) == 3, "of the changed head alone"
    before, after = load_bundle(made.output), load_bundle(order.output)
    assert not same(before.heads["Blend"], after.heads["Blend"])
    assert same(before.backbone.state_dict(), after.backbone.state_dict())
    assert same(before.refiners[0].state_dict(), after.refiners[0].state_dict())
    assert before.spec.methods == after.spec.methods


@pytest.mark.slow
def test_other_refiners_keep_the_heads(made: TrainingSpec, tmp_path: Path) -> None:
    order, seen = copied(made, tmp_path, config_of(refiners={"steps": 1})), Seen()
    train_bundle(order, restart=True, watch=seen)
    assert seen.steps.keys() == {"refiners", "validation", "thresholds", "profile"}
    assert same(load_bundle(made.output).heads["Blend"], load_bundle(order.output).heads["Blend"])


@pytest.mark.slow
def test_a_method_less_is_a_bundle_without_it(made: TrainingSpec, tmp_path: Path) -> None:
    order, seen = copied(made, tmp_path, config_of(methods={"Dark": None})), Seen()
    assert not train_bundle(order, watch=seen)["done_before"]
    assert seen.steps.keys() == {"thresholds", "profile"}
    assert load_bundle(order.output).heads == {}
    assert train_bundle(order)["done_before"]


def test_trainings_without_methods_are_recognised(made: TrainingSpec) -> None:
    with_methods = check(replace(made, output=made.output.with_name("c.safetensors"))).fingerprints
    without = check(
        replace(made, config=config_of(methods={}), output=made.output.with_name("c.safetensors"))
    ).fingerprints
    assert without.keys() == {"backbone", "refiners"}
    assert without.items() <= with_methods.items()
    assert "methods" not in config_of(methods={}).to_json()


def test_smaller_cells_train_nothing_again(made: TrainingSpec, tmp_path: Path) -> None:
    """They are in the bundle, whose thresholds and profile are fitted for them."""
    order, seen = copied(made, tmp_path, config_of(cell_px=128)), Seen()
    assert check(order).fingerprints == check(made).fingerprints
    assert not train_bundle(order, watch=seen)["done_before"]
    assert seen.steps.keys() == {"thresholds", "profile"}
    before, after = load_bundle(made.output), load_bundle(order.output)
    assert (before.spec.cell_px, after.spec.cell_px) == (512, 128)
    assert same(before.backbone.state_dict(), after.backbone.state_dict())
    assert train_bundle(order)["done_before"]


@pytest.mark.slow
def test_the_backbone_of_another_bundle_gets_new_heads(made: TrainingSpec, tmp_path: Path) -> None:
    seen = Seen()
    config = config_of(methods={"Blend": replace(HEAD, steps=2)}, seed=8)
    train_bundle(order_of(made.manifest, tmp_path, config, backbone=made.output), watch=seen)
    given, found = load_bundle(made.output), load_bundle(tmp_path / "b.safetensors")
    assert "backbone" not in seen.steps
    assert same(given.backbone.state_dict(), found.backbone.state_dict())
    assert not same(given.heads["Blend"], found.heads["Blend"])


def test_heads_are_added_to_a_bundle_that_is_otherwise_kept(made: TrainingSpec, tmp_path: Path) -> None:
    config, seen = config_of(methods={"Dark": None, "Blend": replace(HEAD, steps=2)}, name="more", seed=8), Seen()
    order = order_of(made.manifest, tmp_path, config, backbone=made.output, heads_only=True)
    report = train_bundle(order, watch=seen)
    assert seen.steps.keys() == {"Blend", "validation", "methods"}
    given, found = load_bundle(made.output), load_bundle(order.output)
    assert not same(given.heads["Blend"], found.heads["Blend"])
    for before, after in zip((given.backbone, *given.refiners), (found.backbone, *found.refiners), strict=True):
        assert same(before.state_dict(), after.state_dict())
    assert replace(found.spec, name="tiny", card=given.spec.card, methods=given.spec.methods) == given.spec
    assert report["validation_miou_after_scale"] == made_report(made)["validation_miou_after_scale"]
    assert found.spec.card["trained on"] == given.spec.card["trained on"]
    assert train_bundle(order)["done_before"]
    assert "Dark" in training_text(report, order.output, order.folder)


def made_report(made: TrainingSpec) -> dict[str, Any]:
    """The report of a training."""
    report: dict[str, Any] = json.loads((made.folder / "training.json").read_text())
    return report


@pytest.mark.parametrize(("methods", "backbone"), [({}, True), ({"Dark": None}, False)])
def test_heads_alone_need_methods_and_a_bundle(
    made: TrainingSpec, tmp_path: Path, methods: Mapping[str, Any], backbone: bool
) -> None:
    order = order_of(made.manifest, tmp_path, config_of(methods=methods), heads_only=True)
    with pytest.raises(ConfigError, match="--heads-only trains the heads"):
        check_spec(replace(order, backbone=made.output if backbone else None))


def test_a_name_that_is_no_file_has_a_checkpoint_all_the_same() -> None:
    assert stage_of("A/b c*") == "method-A_b_c_"


def train_with_toys(*arguments: Any) -> None:
    """One process's training, with the toys, small validation views and a quick survey."""
    with pytest.MonkeyPatch.context() as patch, registered():
        patch.setattr(making, "VALIDATION_PX", SMALL_VALIDATION_PX)
        patch.setattr(making, "survey_rows", quick_survey)
        TRAIN(*arguments)


TRAIN = making._train


@pytest.fixture
def on_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were two devices."""
    for module in (making, training_spec):
        monkeypatch.setattr(module, "devices_of", lambda device: TWO)
    monkeypatch.setattr(making, "_train", train_with_toys)


@pytest.mark.usefixtures("on_two")
def test_the_batch_of_a_head_is_parted_evenly(made: TrainingSpec, tmp_path: Path) -> None:
    config = config_of(methods={"Blend": replace(HEAD, batch=3)}, refiners={"batch": 2})
    with pytest.raises(ConfigError, match=r"methods\.Blend\.batch 3 cannot be parted evenly among 2 devices"):
        check_spec(order_of(made.manifest, tmp_path, config))


@pytest.mark.slow
@pytest.mark.usefixtures("on_two")
def test_two_processes_train_a_head(made: TrainingSpec, tmp_path: Path) -> None:
    seen = Seen()
    order = replace(order_of(made.manifest, tmp_path, config_of(refiners={"steps": 1, "batch": 2})), threads=1)
    train_bundle(order, watch=seen)
    assert sorted(set(seen.steps["Blend"])) == [1, 2, 3, 4]
    assert load_bundle(order.output).heads["Blend"].keys() == {"0.weight", "0.bias"}


# ---- configuration --------------------------------------------------------------------------------------------------


def test_settings_come_back_from_plain_values() -> None:
    values: Mapping[str, Any] = json.loads(json.dumps(config_of().to_json()))
    assert values["methods"]["Dark"] is None
    assert values["methods"]["Blend"]["window_px"] == 64
