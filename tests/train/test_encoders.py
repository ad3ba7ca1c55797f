"""Training with a foundation encoder: its weights from a file, frozen, in memory once, and told of in the card."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.few import slow_except
from tests.nets.test_vit import filled, hugging_face_file
from tests.runs import MadeRun, labels_of, run_serially
from tests.slides_made import stained, write_pyramid
from tests.train.made import (
    Stopped,
    quick_training,
    same,
    stopping_at,
    tiny_config,
    write_data,
)
from wsi_magnet.config import Execution, RunConfig
from wsi_magnet.errors import BundleError, ConfigError, TrainingError
from wsi_magnet.geometry import Size
from wsi_magnet.nets.bundle import load_bundle
from wsi_magnet.nets.spec import read_spec
from wsi_magnet.nets.vit_variants import VARIANTS
from wsi_magnet.nets.vit_weights import published_weights
from wsi_magnet.segment.slide import segment_slide
from wsi_magnet.train import weights
from wsi_magnet.train.pipeline import train_bundle
from wsi_magnet.train.spec import TrainingSpec, check

TINY = VARIANTS["tiny"].shape


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Validation views of 64 pixels instead of 512, and no picture."""
    with quick_training():
        yield


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the tiny encoder by Hugging Face's names."""
    path = tmp_path_factory.mktemp("encoder") / "model.safetensors"
    state = filled(hugging_face_file(TINY, 1 + 16**2))
    safetensors.torch.save_file({key: 0.2 * one for key, one in state.items()}, path)
    return path


def order_of(manifest: Path, folder: Path, encoder: Path | None, **backbone: Any) -> TrainingSpec:
    folder.mkdir(exist_ok=True)
    settings = {"network": "vit:tiny", "network_args": {"width": 8}, "encoder": encoder and str(encoder)}
    config = tiny_config(backbone={**settings, "average": 0.5, **backbone})
    return TrainingSpec(manifest, config, folder / "b.safetensors", device="cpu", threads=1)


@pytest.fixture(scope="module")
def made(manifest: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingSpec:
    order = order_of(manifest, tmp_path_factory.mktemp("made"), encoder)
    train_bundle(order)
    return order


def test_the_bundle_has_the_files_weights_and_has_learned_the_rest(made: TrainingSpec, encoder: Path) -> None:
    network = load_bundle(made.output).backbone
    given = published_weights(safetensors.torch.load_file(encoder), network.encoder)  # type: ignore[arg-type]
    assert same(network.encoder.state_dict(), given)  # type: ignore[union-attr]
    statistics = network.state_dict()["stem.0.1.running_mean"]
    assert statistics.abs().max() > 0


def test_the_card_names_the_file_its_hash_and_its_licence(
    made: TrainingSpec, encoder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    digest = hashlib.sha256(encoder.read_bytes()).hexdigest()
    card = read_spec(made.output)[0].card
    assert card["encoder"] == f"model.safetensors, SHA-256 {digest}"
    assert "licence of the encoder" not in card, "nobody publishes the tiny one"
    licensed = replace(VARIANTS["tiny"], licence="CC-BY-NC-ND-4.0 (Tiny, Somebody)")
    monkeypatch.setattr("wsi_magnet.nets.vit_variants.VARIANTS", {**VARIANTS, "tiny": licensed})
    order = replace(made, output=tmp_path / "b.safetensors")
    train_bundle(order)
    assert read_spec(order.output)[0].card["licence of the encoder"] == "CC-BY-NC-ND-4.0 (Tiny, Somebody)"
    own = replace(order.config, backbone=replace(order.config.backbone, encoder=None))
    for backbone, start in ((order.output, None), (None, order.output)):
        output = tmp_path / ("refined.safetensors" if backbone else "further.safetensors")
        again = replace(order, config=own, output=output, backbone=backbone, start=start)
        train_bundle(again)
        found = read_spec(again.output)[0].card
        assert found["licence of the encoder"] == "CC-BY-NC-ND-4.0 (Tiny, Somebody)"
        assert found["encoder"] == card["encoder"]


def test_checkpoints_hold_nothing_frozen(made: TrainingSpec) -> None:
    saved = torch.load(made.folder / "backbone.ckpt", weights_only=True)
    keys = {*saved["learned"], *saved["best"], *(key.removeprefix("module.") for key in saved["average"])}
    assert not [key for key in keys if key.startswith("encoder.")]
    assert saved["learned"].keys() == saved["best"].keys()
    assert len(saved["frozen"]) == 64


def test_a_stopped_training_resumes_to_the_same_bytes(
    made: TrainingSpec, manifest: Path, encoder: Path, tmp_path: Path
) -> None:
    order = order_of(manifest, tmp_path / "stopped", encoder)
    with pytest.raises(Stopped):
        train_bundle(order, watch=stopping_at("backbone", 3))
    train_bundle(order)
    assert order.output.read_bytes() == made.output.read_bytes()


def test_a_training_does_not_resume_with_other_frozen_weights(
    manifest: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = order_of(manifest, tmp_path / "stopped", encoder)
    with pytest.raises(Stopped):
        train_bundle(order, watch=stopping_at("backbone", 3))
    monkeypatch.setattr(weights.LearnedWeights, "frozen_digest", lambda self: "0" * 64)
    with pytest.raises(TrainingError, match=r"frozen weights were others when it was written; .* --restart"):
        train_bundle(order)


def test_another_file_is_another_training(made: TrainingSpec, encoder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    state = safetensors.torch.load_file(encoder)
    safetensors.torch.save_file({**state, "layernorm.bias": state["layernorm.bias"] + 1}, other)
    backbone = replace(made.config.backbone, encoder=str(other))
    changed = replace(made, config=replace(made.config, backbone=backbone))
    one, two = (check(spec).fingerprints for spec in (made, changed))
    assert one["backbone"] != two["backbone"]


@pytest.mark.parametrize("name", ["hibou-b", "uni2-h"])
def test_a_published_encoder_without_its_file_is_refused(manifest: Path, tmp_path: Path, name: str) -> None:
    order = order_of(manifest, tmp_path / "none", None, network=f"vit:{name}")
    said = rf"'vit:{name}' is a frozen encoder.* \(`encoder: FILE` below `backbone`\), or a bundle with --from"
    with pytest.raises(ConfigError, match=said):
        train_bundle(order)


def test_a_file_of_another_encoder_is_refused_before_anything_is_trained(
    manifest: Path, encoder: Path, tmp_path: Path
) -> None:
    order = order_of(manifest, tmp_path / "wrong", encoder, network="vit:small")
    with pytest.raises(BundleError, match=r"model\.safetensors as the trunk of vit:small does not fit: .* missing"):
        train_bundle(order)
    assert not order.folder.exists()


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pyramid(tmp_path_factory.mktemp("slide") / "s.tif", stained(Size(700, 420)), mpp=1.0, factors=(2, 4))


def everything(tile_px: int) -> RunConfig:
    return RunConfig(tile_px=tile_px, tissue=False, precision="fp32")


@pytest.mark.parametrize("tile_px", slow_except([1024], [1024, 2048]))
def test_tiles_change_nothing(made: TrainingSpec, slide: Path, tmp_path: Path, tile_px: int) -> None:
    done = [
        run_serially(MadeRun(slide, made.output), tmp_path / str(side), everything(side)) for side in (512, tile_px)
    ]
    mask, other = (labels_of(one.folder) for one in done)
    assert mask.shape == (420, 700)
    assert np.array_equal(mask, other)


@pytest.mark.slow
def test_workers_change_nothing(made: TrainingSpec, slide: Path, tmp_path: Path) -> None:
    alone = run_serially(MadeRun(slide, made.output), tmp_path / "alone", everything(512))
    done = segment_slide(
        slide, tmp_path / "two", bundle=made.output, config=everything(512), execution=Execution(workers=2)
    )
    assert np.array_equal(labels_of(alone.folder), labels_of(done.folder))


@pytest.mark.slow
def test_branch_and_decoder_learn_beside_a_frozen_encoder(manifest: Path, encoder: Path, tmp_path: Path) -> None:
    order = order_of(manifest, tmp_path / "long", encoder, steps=60, batch=4, validate_every=20, average=0.8)
    report = train_bundle(order)
    assert report["validation_miou_after_scale"][-1] > 0.8
