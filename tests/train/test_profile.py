"""The profile of a bundle: numbers of its own data, with which strange tissue is told apart and no mask is changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from tests.few import slow_except
from tests.nets.made import networks_of, small_spec
from tests.runs import MadeRun, labels_of, run_serially
from tests.train.made import glands, write_data
from wsi_magnet.config import RunConfig
from wsi_magnet.dataset.label_counts import LabelCounts
from wsi_magnet.dataset.sample import Sample
from wsi_magnet.errors import BundleError, StoreError, TrainingError
from wsi_magnet.nets.bundle import FeatureStatistics, load_bundle, save_bundle
from wsi_magnet.nets.profile import TrainingProfile
from wsi_magnet.nets.spec import ClassInfo, read_spec
from wsi_magnet.train import profile as profiling
from wsi_magnet.train.profile import _class_shares, _whitening, add_profile

CLASSES = (ClassInfo("tissue", 1, (200, 0, 0)), ClassInfo("gland", 2, (0, 0, 200)))
ROWS = (("a", "train"), ("b", "train"), ("c", "validation"))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A bundle with random weights, the same with a profile, and the manifest of its data."""
    folder = tmp_path_factory.mktemp("profile")
    manifest = write_data(folder, ROWS, labels="0=1; 1=2")
    ladder = {"mpps": (2.0, 1.0), "refiner_of": (0,), "temperature": (1.0, 1.0)}
    spec = small_spec(classes=CLASSES, select_above=(0.0,), refine_above=(0.0,), **ladder)
    old, new = folder / "old.safetensors", folder / "new.safetensors"
    save_bundle(old, spec, *networks_of(spec))
    add_profile(old, manifest, new, "cpu")
    return old, new, manifest


def slide_of(path: Path, image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Path:
    Pillow.fromarray(image).save(path)
    return path


def test_a_bundle_of_the_same_weights_has_the_numbers_of_its_data(bundles: tuple[Path, Path, Path]) -> None:
    old, new, _ = bundles
    spec, before = read_spec(new)[0], load_bundle(old)
    assert before.spec.profile is None
    assert before.statistics is None
    assert replace(spec, profile=None) == before.spec
    profile, bundle = spec.profile, load_bundle(new)
    assert profile is not None
    assert bundle.statistics is not None
    assert profile.images == 3
    assert len(profile.distances) == len(profile.uncertainty) == 2
    coarse, fine = profile.distances
    assert coarse == 0, "two blocks are too few to know"
    assert 0 < fine < 30
    assert {name: low <= high for name, (low, high) in profile.class_shares.items()} == {"1": True, "2": True}
    weights = (one.backbone.state_dict() for one in (before, bundle))
    assert all(torch.equal(a, b) for a, b in zip(*(one.values() for one in weights), strict=True))


@pytest.mark.parametrize("strange", slow_except([True], [False, True]))
def test_strange_tissue_is_told_apart_and_no_mask_changed(
    bundles: tuple[Path, Path, Path], tmp_path: Path, strange: bool
) -> None:
    old, new, _ = bundles
    image = glands(50, 300)[0]
    if strange:
        image = np.where(image % 7 < 3, (90, 30, 160), 255 - image).astype(np.uint8)
    slide = slide_of(tmp_path / "slide.png", image)
    config = RunConfig(tile_px=512, mpp=1.0, tissue=False, refine="all", keep_uncertainty=True)
    plain = run_serially(MadeRun(slide, old), tmp_path / "old", config)
    done = run_serially(MadeRun(slide, new), tmp_path / "new", config)
    for product in ("mask", "uncertainty"):
        assert (labels_of(plain.folder, 0, product) == labels_of(done.folder, 0, product)).all()
    assert ("unlike the training data" in [one.kind for one in done.alarms]) == strange
    assert done.summary["scales"][1]["blocks_compared"] == 16, "300 pixels are four blocks and three quarters"
    assert plain.summary["scales"][1]["blocks_compared"] == 0
    assert plain.summary["scales"][1]["mean_distance"] is None


def test_statistics_and_distances_go_together(tmp_path: Path) -> None:
    spec = small_spec(profile=TrainingProfile(distances=(1.0, 1.0, 1.0)))
    with pytest.raises(BundleError, match="wsi-magnet bundle profile"):
        save_bundle(tmp_path / "b.safetensors", spec, *networks_of(spec))
    statistics = FeatureStatistics(torch.zeros(3, 12), torch.zeros(3, 12, 12))
    save_bundle(tmp_path / "b.safetensors", spec, *networks_of(spec), statistics)
    assert load_bundle(tmp_path / "b.safetensors").spec == spec
    with pytest.raises(BundleError, match="do not fit 3 scales"):
        save_bundle(tmp_path / "b.safetensors", replace(spec, profile=None), *networks_of(spec), statistics)


def test_a_profile_needs_both_splits(bundles: tuple[Path, Path, Path], tmp_path: Path) -> None:
    manifest = write_data(tmp_path, ROWS[:2], labels="0=1; 1=2")
    with pytest.raises(TrainingError, match="no row of split 'validation'"):
        add_profile(bundles[0], manifest, tmp_path / "new.safetensors", "cpu")


@pytest.mark.parametrize(
    ("output", "why"),
    [("new.safetensors", "exists"), ("new.safetensors/x.safetensors", "is a file"), ("d.safetensors", "is a folder")],
)
def test_an_output_that_cannot_be_is_refused_before_any_work(
    bundles: tuple[Path, Path, Path], tmp_path: Path, output: str, why: str
) -> None:
    (tmp_path / "new.safetensors").write_text("mine")
    (tmp_path / "d.safetensors").mkdir()
    with pytest.raises((StoreError, BundleError), match=why):
        add_profile(tmp_path / "no bundle", bundles[2], tmp_path / output, "cpu")
    assert (tmp_path / "new.safetensors").read_text() == "mine"
    with pytest.raises(BundleError, match="no bundle"):
        add_profile(tmp_path / "no bundle", bundles[2], tmp_path / "new.safetensors", "cpu", overwrite=True)


def test_whitened_features_have_a_mean_square_of_one() -> None:
    rng = np.random.default_rng(0)
    blocks = rng.normal(size=(4000, 5)) * (1, 2, 3, 4, 100) + 7
    mean, whitening = _whitening(blocks, 5)
    squares = (((blocks - mean) @ whitening.T) ** 2).sum(axis=1)
    assert squares.mean() == pytest.approx(1.0, rel=0.05)


def test_shares_of_classes_leave_out_ambiguous_images_and_background(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = small_spec()  # background, stroma, other

    def row(number: int, split: str, **counts: int) -> tuple[Sample, LabelCounts]:
        sample = Sample(number, Path(f"{number}.png"), (), 1.0, "g", split)  # type: ignore[arg-type]
        sets = {int(labels.removeprefix("s")): pixels for labels, pixels in counts.items()}
        return sample, LabelCounts(None, sets, np.zeros((1, 1), np.uint32))  # type: ignore[arg-type]

    rows = dict([row(2, "train", s1=50, s2=30, s4=70), row(3, "train", s3=60, s4=40), row(4, "validation", s2=10)])
    assert _class_shares(spec, rows) == {"1": (0.3, 1.0), "7": (0.0, 0.7)}
    rows |= dict([row(5, "train", s6=100), row(6, "test", s4=100)])
    assert _class_shares(spec, rows) == {"1": (0.3, 1.0), "7": (0.0, 0.7)}
    monkeypatch.setattr(profiling, "LEAST_ROWS", 4)
    assert _class_shares(spec, rows) == {}, "too few images to know"
