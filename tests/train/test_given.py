"""A training that starts from all weights of a bundle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.made import (
    Stopped,
    quick_training,
    same,
    stopping_at,
    tiny_config,
    write_data,
)
from wsi_magnet.errors import BundleError, ConfigError, TrainingError
from wsi_magnet.nets.bundle import load_bundle, save_bundle
from wsi_magnet.nets.registry import build_network, build_refiner
from wsi_magnet.nets.spec import read_spec
from wsi_magnet.train.config import ClassConfig, MethodConfig, TrainingConfig
from wsi_magnet.train.given import Start
from wsi_magnet.train.pipeline import train_bundle
from wsi_magnet.train.spec import TrainingSpec, check_spec

FEW: dict[str, Any] = {"backbone": {"steps": 2}, "refiners": {"steps": 2}, "mpps": (2.0, 1.0)}
"""Settings of a training of a second."""


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Quick trainings."""
    with quick_training():
        yield


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of glands."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def made(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained bundle."""
    spec = spec_of(manifest, tmp_path_factory.mktemp("made"), tiny_config(**FEW))
    train_bundle(spec)
    return spec.output


def spec_of(manifest: Path, folder: Path, config: TrainingConfig | None = None, **options: Any) -> TrainingSpec:
    folder.mkdir(exist_ok=True)
    return TrainingSpec(
        manifest, config or tiny_config(**FEW, seed=8), folder / "new.safetensors", device="cpu", **options
    )


def test_all_networks_begin_with_the_weights_of_the_bundle(made: Path) -> None:
    start = Start.of(made)
    assert start is not None
    network, modules = build_network("small", 2, width=2), torch.nn.ModuleList([build_refiner("magnet", 2)])
    start.begin(network)
    start.begin_refiners(modules)
    given = load_bundle(made)
    assert same(network.state_dict(), given.backbone.state_dict())
    assert same(modules[0].state_dict(), given.refiners[0].state_dict())


def test_steps_that_share_a_module_begin_with_copies_of_it(made: Path, tmp_path: Path) -> None:
    given = load_bundle(made)
    shared = replace(
        given.spec,
        mpps=(4.0, 2.0, 1.0),
        refiner_of=(0, 0),
        temperature=(1.0, 1.0, 1.0),
        select_above=(0.1, 0.1),
        refine_above=(0.1, 0.1),
        profile=None,
    )
    save_bundle(tmp_path / "shared.safetensors", shared, given.backbone, given.refiners)
    modules = torch.nn.ModuleList([build_refiner("magnet", 2) for _ in range(2)])
    start = Start.of(tmp_path / "shared.safetensors")
    assert start is not None
    start.begin_refiners(modules)
    assert same(modules[0].state_dict(), modules[1].state_dict())
    assert next(modules[0].parameters()) is not next(modules[1].parameters())


def test_it_starts_there_resumes_to_the_same_file_and_says_so(made: Path, manifest: Path, tmp_path: Path) -> None:
    at_once, stopped = (spec_of(manifest, tmp_path / name, start=made) for name in ("one", "other"))
    report = train_bundle(at_once)
    for stage in ("backbone", "refiners"):
        with pytest.raises(Stopped):
            train_bundle(stopped, watch=stopping_at(stage, 1))
    train_bundle(stopped)
    assert stopped.output.read_bytes() == at_once.output.read_bytes()
    sha256 = read_spec(made)[1]
    assert report["from"] == {"name": "tiny", "sha256": sha256, "fresh_heads": []}
    assert json.loads((at_once.folder / "training.json").read_text())["from"] == report["from"]
    assert read_spec(at_once.output)[0].card["fine-tuned from"] == f"tiny, SHA-256 {sha256}"
    with pytest.raises(TrainingError, match="another configuration or other data"):
        train_bundle(replace(at_once, start=None, output=at_once.output), watch=stopping_at("backbone", 1))


def test_a_start_changes_what_is_learned(made: Path, manifest: Path, tmp_path: Path) -> None:
    slow = tiny_config(**{**FEW, "backbone": {"steps": 1, "learning_rate": 1e-7}})
    with pytest.raises(Stopped):
        train_bundle(spec_of(manifest, tmp_path, slow, start=made), watch=stopping_at("refiners", 1))
    saved = torch.load(tmp_path / "new.training" / "backbone.ckpt", weights_only=True)["learned"]
    given = dict(load_bundle(made).backbone.named_parameters())
    for key, tensor in given.items():
        torch.testing.assert_close(saved[key], tensor, rtol=0, atol=1e-5)


def test_classes_are_taken_in_the_order_of_the_bundle(made: Path, manifest: Path, tmp_path: Path) -> None:
    turned = (ClassConfig("Gland", color=(1, 2, 3)), ClassConfig("background"))
    spec = spec_of(manifest, tmp_path, tiny_config(**FEW, classes=turned), start=made)
    train_bundle(spec)
    classes = read_spec(spec.output)[0].classes
    assert [(c.name, c.value) for c in classes] == [("background", 0), ("Gland", 1)]
    assert tuple(classes[1].color) == (1, 2, 3)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "other classes": (
        {"classes": (ClassConfig("background"), ClassConfig("nerve"))},
        "different classes, background, gland and background, nerve: --from needs the same names",
    ),
    "one class more": (
        {"classes": (ClassConfig("background"), ClassConfig("gland"), ClassConfig("nerve"))},
        "different classes, background, gland and background, gland, nerve",
    ),
    "another network": ({"backbone": {"network": "fpn", "network_args": {}}}, "network small, the training fpn"),
    "other scales": ({"mpps": (4.0, 2.0)}, r"scales \[2.0, 1.0\], the training \[4.0, 2.0\]"),
    "other modules": ({"refiners": {"module": "light"}}, "refiners.module magnet, the training light"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_bundle_that_does_not_fit_is_refused(made: Path, manifest: Path, tmp_path: Path, change: str) -> None:
    changes, said = CHANGES[change]
    with pytest.raises(ConfigError, match=said):
        check_spec(spec_of(manifest, tmp_path, tiny_config(**{**FEW, **changes}), start=made))


def test_it_excludes_a_backbone_that_is_kept_and_its_own_output(made: Path, manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give one of the two"):
        check_spec(spec_of(manifest, tmp_path, start=made, backbone=made))
    with pytest.raises(ConfigError, match="is the bundle that --from takes"):
        check_spec(replace(spec_of(manifest, tmp_path, start=made), output=made))


def test_an_encoder_is_frozen_only_with_weights_from_somewhere(made: Path, manifest: Path, tmp_path: Path) -> None:
    frozen = tiny_config(**{**FEW, "backbone": {"encoder_learning_rate": 0.0}})
    with pytest.raises(ConfigError, match="an encoder of random weights; give weights"):
        check_spec(spec_of(manifest, tmp_path, frozen))
    check_spec(spec_of(manifest, tmp_path, frozen, start=made))


def test_what_is_no_bundle_is_refused(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(BundleError, match=r"text\.safetensors"):
        check_spec(spec_of(manifest, tmp_path, start=tmp_path / "text.safetensors"))


def test_it_starts_with_the_normalisation_of_the_bundle(made: Path, manifest: Path, tmp_path: Path) -> None:
    given = load_bundle(made)
    save_bundle(
        tmp_path / "other.safetensors", replace(given.spec, mean=(0.5, 0.4, 0.5)), given.backbone, given.refiners
    )
    spec = spec_of(manifest, tmp_path, start=tmp_path / "other.safetensors")
    train_bundle(spec)
    assert read_spec(spec.output)[0].mean == (0.5, 0.4, 0.5)


@pytest.mark.slow
def test_heads_begin_with_those_of_the_bundle_and_others_afresh(made: Path, manifest: Path, tmp_path: Path) -> None:
    def settings(steps: int, rate: float) -> MethodConfig:
        return MethodConfig(steps=steps, window_px=64, batch=1, learning_rate=rate, weight_decay=0.0)

    first = spec_of(manifest, tmp_path / "one", tiny_config(**FEW, methods={"PointRend": settings(2, 0.01)}))
    train_bundle(first)
    methods = {"PointRend": settings(1, 1e-8), "DGF": settings(1, 0.01)}
    second = spec_of(manifest, tmp_path / "two", tiny_config(**FEW, methods=methods), start=first.output)
    report = train_bundle(second)
    assert report["from"]["fresh_heads"] == ["DGF"]
    given, found = (load_bundle(one.output).heads["PointRend"] for one in (first, second))
    for key, tensor in given.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-6)
