"""The whole training: a bundle that can be used, the same bytes each time, and refusals before anything is made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image as Pillow

from tests.few import slow_except
from tests.runs import labels_of
from tests.train.made import (
    SIDE_PX,
    Stopped,
    glands,
    quick_training,
    same,
    stopping_at,
    tiny_config,
    write_data,
    write_rows,
)
from wsi_magnet.config import RunConfig
from wsi_magnet.errors import (
    BundleError,
    ConfigError,
    ManifestError,
    ResultBusyError,
    StoreError,
    TrainingError,
    WsiMagnetError,
)
from wsi_magnet.nets.bundle import load_bundle, save_bundle
from wsi_magnet.nets.registry import build_network
from wsi_magnet.nets.spec import edit_bundle, read_spec
from wsi_magnet.runtime.serial import SerialExecutor
from wsi_magnet.segment.slide import segment_slide
from wsi_magnet.train import pipeline as making
from wsi_magnet.train.config import AugmentConfig, ClassConfig, FitConfig, TrainingConfig
from wsi_magnet.train.history import Row
from wsi_magnet.train.pipeline import train_bundle
from wsi_magnet.train.spec import TrainingSpec, check_spec

ROW = {"image": "image_0.png", "annotation": "mask_0.png", "mpp": 1.0, "group": "a", "split": "train"}


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Validation views of 64 pixels instead of 512, and no picture."""
    with quick_training():
        yield


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of glands; nothing is written into the folder."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def made(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingSpec:
    """A training that has ended."""
    order = order_of(manifest, tmp_path_factory.mktemp("made"))
    train_bundle(order)
    return order


def order_of(manifest: Path, folder: Path, config: TrainingConfig | None = None, **options: Any) -> TrainingSpec:
    return TrainingSpec(manifest, config or tiny_config(), folder / "b.safetensors", device="cpu", **options)


def copied(made: TrainingSpec, folder: Path) -> TrainingSpec:
    """A copy of a training that has ended."""
    copy = replace(made, output=folder / made.output.name)
    shutil.copyfile(made.output, copy.output)
    shutil.copytree(made.folder, copy.folder)
    return copy


def test_the_bundle_can_be_loaded_and_is_what_was_ordered(made: TrainingSpec) -> None:
    spec = load_bundle(made.output).spec
    assert (spec.name, spec.network, spec.network_args, spec.mpps) == ("tiny", "small", {"width": 2}, (4.0, 2.0, 1.0))
    assert [(c.name, c.value) for c in spec.classes] == [("background", 0), ("gland", 1)]
    assert (spec.refiner_of, spec.select_width, spec.median_px) == ((0, 1), (), 3)


def test_the_card_says_what_it_was_trained_on(made: TrainingSpec) -> None:
    card = read_spec(made.output)[0].card
    assert card["trained on"] == "4 images of 2 groups: a, b"
    assert card["validated on"].startswith("1 image of 1 group: c")


def test_a_slide_is_segmented_with_it(made: TrainingSpec, tmp_path: Path) -> None:
    slide = tmp_path / "slide.png"
    Pillow.fromarray(glands(9)[0]).save(slide)
    segment_slide(
        slide, tmp_path, bundle=made.output, config=RunConfig(mpp=1.0, tissue=False), execution=SerialExecutor()
    )
    labels = labels_of(tmp_path / "slide")
    assert labels.shape == (SIDE_PX, SIDE_PX)
    assert set(np.unique(labels).tolist()) <= {0, 1}


def test_the_folder_holds_checkpoints_curves_and_a_report(made: TrainingSpec) -> None:
    names = {path.name for path in made.folder.iterdir()} - {".lock"}
    assert names == {"backbone.ckpt", "temperatures.ckpt", "refiners.ckpt", "curves.csv", "training.json"}


def test_the_curves_have_every_step_once(made: TrainingSpec) -> None:
    rows = [line.split(",")[:2] for line in (made.folder / "curves.csv").read_text().splitlines()[1:]]
    assert rows == [["backbone", str(i)] for i in range(1, 7)] + [["refiners", str(i)] for i in range(1, 5)]


def test_the_report_says_what_went_in(made: TrainingSpec) -> None:
    report = json.loads((made.folder / "training.json").read_text())
    assert report["rows"] == {"train": [f"image_{i}" for i in range(4)], "validation": ["image_4"]}
    masks = [glands(i)[1] for i in range(4)]
    assert report["pixels_by_class"]["train"] == [int(sum((mask == value).sum() for mask in masks)) for value in (0, 1)]
    assert len(report["validation_miou_after_scale"]) == len(report["temperature"]) == 3


def test_the_same_seed_is_the_same_file(made: TrainingSpec, manifest: Path, tmp_path: Path) -> None:
    order = order_of(manifest, tmp_path)
    train_bundle(order)
    assert order.output.read_bytes() == made.output.read_bytes()
    assert (order.folder / "curves.csv").read_bytes() == (made.folder / "curves.csv").read_bytes()


@pytest.mark.slow
def test_another_seed_is_another_file(made: TrainingSpec, manifest: Path, tmp_path: Path) -> None:
    order = order_of(manifest, tmp_path, tiny_config(seed=4))
    train_bundle(order)
    assert not same(load_bundle(order.output).backbone.state_dict(), load_bundle(made.output).backbone.state_dict())


@pytest.mark.parametrize(
    ("stage", "step"),
    slow_except([("refiners", 1)], [("backbone", 1), ("backbone", 5), ("refiners", 1), ("refiners", 3)]),
)
def test_stopped_in_either_stage_it_goes_on_to_the_same_file(
    made: TrainingSpec, manifest: Path, tmp_path: Path, stage: str, step: int
) -> None:
    order = order_of(manifest, tmp_path)
    with pytest.raises(Stopped):
        train_bundle(order, watch=stopping_at(stage, step))
    train_bundle(order)
    assert order.output.read_bytes() == made.output.read_bytes()
    assert (order.folder / "curves.csv").read_bytes() == (made.folder / "curves.csv").read_bytes()


@pytest.mark.parametrize("module", slow_except(["gate+rgb"], ["gate", "gate+rgb"]))
def test_a_gate_resumes_to_the_same_file(made: TrainingSpec, tmp_path: Path, module: str) -> None:
    config = tiny_config(refiners={"module": module, "choice_weight": 0.5})
    at_once, stopped = (replace(copied(made, folder(tmp_path / name)), config=config) for name in ("one", "other"))
    for order in (at_once, stopped):
        (order.folder / "refiners.ckpt").unlink()
    train_bundle(at_once)
    with pytest.raises(Stopped):
        train_bundle(stopped, watch=stopping_at("refiners", 3))
    train_bundle(stopped)
    assert stopped.output.read_bytes() == at_once.output.read_bytes()


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_data_that_lie_elsewhere_are_the_same_data(made: TrainingSpec, manifest: Path, tmp_path: Path) -> None:
    order = copied(made, tmp_path)
    moved = manifest.parent.rename(manifest.parent.with_name("moved"))
    try:
        assert train_bundle(replace(order, manifest=moved / manifest.name))["done_before"]
    finally:
        moved.rename(manifest.parent)
    assert order.output.read_bytes() == made.output.read_bytes()


def test_checkpoints_of_another_configuration_are_refused_and_forgotten_on_request(
    made: TrainingSpec, tmp_path: Path
) -> None:
    other = replace(copied(made, tmp_path), config=tiny_config(backbone={"steps": 2}))
    with pytest.raises(TrainingError, match="another configuration or other data"):
        train_bundle(other)
    with pytest.raises(Stopped):
        train_bundle(other, restart=True, watch=stopping_at("backbone", 1))


def test_other_refiners_keep_the_backbone(made: TrainingSpec, tmp_path: Path) -> None:
    order = copied(made, tmp_path)
    (order.folder / "refiners.ckpt").unlink()
    stages: set[str] = set()
    other = tiny_config(refiners={"shared": True}, fit=FitConfig(select="soft"), name="other")
    train_bundle(replace(order, config=other), watch=lambda stage, row, steps: stages.add(stage))
    assert stages == {"refiners", "validation", "thresholds", "profile"}, "the temperatures were kept too"
    trained, before = (load_bundle(path).backbone.state_dict() for path in (order.output, made.output))
    assert same(trained, before)


def test_temperatures_are_not_fitted_again(made: TrainingSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = copied(made, tmp_path)
    order.output.unlink()
    with monkeypatch.context() as patch:
        patch.delattr(making, "fit_temperatures")
        train_bundle(order)
    assert order.output.read_bytes() == made.output.read_bytes()


def test_fitting_is_logged_and_counted(manifest: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "wsi_magnet.train")
    counted: dict[str, list[tuple[int, int]]] = {"temperatures": [], "thresholds": []}

    def watch(stage: str, row: Row, steps: int) -> None:
        if stage in counted:
            assert isnan(row.loss)
            counted[stage].append((row.step, steps))

    train_bundle(order_of(manifest, tmp_path, tiny_config(mpps=(2.0, 1.0))), watch=watch)
    assert [text for text in caplog.messages if text.startswith(("reading", "fitting"))] == [
        "reading the labels of all rows",
        "fitting the backbone's temperature at scale 1 of 2",
        "fitting the backbone's temperature at scale 2 of 2",
        "fitting the temperatures of the refinement modules",
        "fitting thresholds at scale 2 of 2",
    ]
    for steps in counted.values():
        count = steps[0][1]
        assert steps == [(done, count) for done in range(1, count + 1)]


@pytest.mark.slow
def test_a_restart_with_other_refiners_keeps_the_backbone(manifest: Path, tmp_path: Path) -> None:
    train_bundle(order_of(manifest, tmp_path))
    stages: list[str] = []
    order = order_of(manifest, tmp_path, tiny_config(refiners={"learning_rate": 0.002}))
    train_bundle(order, restart=True, watch=lambda stage, row, steps: stages.append(stage))
    assert set(stages) == {"refiners", "validation", "thresholds", "profile"}
    train_bundle(order, restart=True, watch=lambda stage, row, steps: stages.append(stage))
    assert set(stages) == {"backbone", "refiners", "validation", "temperatures", "thresholds", "profile"}


@pytest.mark.parametrize("damaged", slow_except(["{"], ["{", "[]", "{}"]))
def test_a_damaged_report_is_written_again(made: TrainingSpec, tmp_path: Path, damaged: str) -> None:
    order = copied(made, tmp_path)
    (order.folder / "training.json").write_text(damaged)
    assert not train_bundle(order)["done_before"]


def test_the_bundle_whose_backbone_is_taken_is_not_overwritten(made: TrainingSpec) -> None:
    with pytest.raises(ConfigError, match="give the new one another name"):
        train_bundle(replace(made, backbone=made.output))


def test_a_bundle_that_is_a_folder_is_refused_before_anything_is_trained(manifest: Path, tmp_path: Path) -> None:
    order = order_of(manifest, tmp_path)
    order.output.mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        train_bundle(order)


def test_a_bundle_of_another_origin_is_not_replaced(made: TrainingSpec, tmp_path: Path) -> None:
    order = copied(made, tmp_path)
    edit_bundle(made.output, order.output, replace(read_spec(made.output)[0], name="mine"))
    for attempt in (train_bundle, check_spec):
        with pytest.raises(StoreError, match=r"b\.training did not make it; choose another name with -o"):
            attempt(order)
    with pytest.raises(Stopped):
        train_bundle(order, restart=True, watch=stopping_at("backbone", 1))
    assert check_spec(order)["classes"] == ["background", "gland"], "what a restart may replace, its resumption may"
    shutil.rmtree(order.folder)
    with pytest.raises(StoreError, match="did not make it"):
        train_bundle(order)
    assert read_spec(order.output)[0].name == "mine"
    assert not order.folder.exists()
    assert check_spec(order, restart=True)["classes"] == ["background", "gland"]
    order.output.unlink()
    assert check_spec(order)["classes"] == ["background", "gland"]


def test_ended_between_bundle_and_report_it_may_resume(
    made: TrainingSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = copied(made, tmp_path)
    order.output.unlink()

    def ended(*arguments: Any) -> None:
        raise Stopped

    monkeypatch.setattr(making, "write_json", ended)
    with pytest.raises(Stopped):
        train_bundle(order)
    edit_bundle(made.output, order.output, replace(read_spec(made.output)[0], name="of a restart"))
    assert check_spec(order)["classes"] == ["background", "gland"]


def test_a_bundle_below_a_file_is_refused(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is a file, not a folder"):
        check_spec(order_of(manifest, tmp_path / "file"))


def test_with_other_views_for_validation_it_is_another_training(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train_bundle(order_of(manifest, tmp_path), watch=stopping_at("backbone", 3))
    with pytest.raises(TrainingError, match="another configuration or other data"):
        train_bundle(order_of(manifest, tmp_path, tiny_config(validation_views=1)))


def test_checkpoints_of_other_labels_are_refused(tmp_path: Path) -> None:
    order = order_of(write_data(tmp_path), tmp_path)
    with pytest.raises(Stopped):
        train_bundle(order, watch=stopping_at("backbone", 3))
    Pillow.fromarray(glands(99)[1]).save(tmp_path / "mask_0.png")
    with pytest.raises(TrainingError, match="another configuration or other data"):
        train_bundle(order)


def test_two_trainings_in_one_folder_are_refused(manifest: Path, tmp_path: Path) -> None:
    order = order_of(manifest, tmp_path)
    order.folder.mkdir()
    with FileLock(order.folder / ".lock"), pytest.raises(ResultBusyError, match="another training is running"):
        train_bundle(order)


def test_the_backbone_of_another_bundle_is_kept(made: TrainingSpec, manifest: Path, tmp_path: Path) -> None:
    order = order_of(manifest, tmp_path, tiny_config(seed=8, refiners={"shared": True}), backbone=made.output)
    report = train_bundle(order)
    given, found = load_bundle(made.output), load_bundle(order.output)
    assert same(given.backbone.state_dict(), found.backbone.state_dict())
    assert found.spec.refiner_of == (0, 0)
    assert list(report["seconds"]) == ["refiners", "fitting"]
    assert report["seconds"]["fitting"] > 0


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (tiny_config(backbone={"network_args": {"width": 4}}), "network_args {'width': 2}, the training {'width': 4}"),
        (tiny_config(mpps=(2.0, 1.0, 0.5)), r"scales \[4.0, 2.0, 1.0\], the training \[2.0, 1.0, 0.5\]"),
        (tiny_config(classes=(ClassConfig("gland"), ClassConfig("background"))), "classes "),
        (tiny_config(backbone={"network": "fpn", "network_args": {}}), "network small, the training fpn"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused(
    made: TrainingSpec, manifest: Path, tmp_path: Path, config: TrainingConfig, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        train_bundle(order_of(manifest, tmp_path, config, backbone=made.output))


def test_a_backbone_keeps_its_own_normalisation(made: TrainingSpec, manifest: Path, tmp_path: Path) -> None:
    bundle = load_bundle(made.output)
    other = tmp_path / "other.safetensors"
    save_bundle(other, replace(bundle.spec, mean=(0.5, 0.4, 0.5)), bundle.backbone, bundle.refiners)
    order = order_of(manifest, tmp_path, backbone=other)
    train_bundle(order)
    found, _ = read_spec(order.output)
    assert (found.mean, found.std) == ((0.5, 0.4, 0.5), bundle.spec.std)


WAYS: dict[str, dict[str, Any]] = {
    "published": {
        "refiners": {"input": "published", "loss": "ohem", "ohem_kept": 300, "optimizer": "sgd", "schedule": "steps"}
    },
    "cumulative": {"refiners": {"input": "cumulative", "steps": 6, "augment": AugmentConfig(stain=0.4)}},
    "shared": {"refiners": {"shared": True}},
    "pool": {"refiners": {"module": "pool"}},
    "gate": {"refiners": {"module": "gate"}},
    "gate+rgb": {"refiners": {"module": "gate+rgb", "choice_weight": 0.5}},
    "soft": {"fit": FitConfig(select="soft")},
    "weighed": {"class_weight": 0.5, "class_balance": 0.0, "backbone": {"scale_shares": (0.0, 1.0, 1.0)}},
    "poly": {"backbone": {"optimizer": "sgd", "schedule": "poly"}},
    "two scales": {"mpps": (2.0, 1.0), "refiners": {"crop_px": 64}},
    "early end": {"backbone": {"validate_every": 1, "patience": 1}, "refiners": {"validate_every": 1, "patience": 1}},
    "no step": {"backbone": {"steps": 1}, "refiners": {"steps": 1}},
    "half precision": {"precision": "bf16", "backbone": {"steps": 1}, "refiners": {"steps": 1}, "mpps": (2.0, 1.0)},
}


@pytest.mark.parametrize("way", slow_except(["published"], WAYS))
def test_every_way_of_training_gives_a_bundle(manifest: Path, tmp_path: Path, way: str) -> None:
    order = order_of(manifest, tmp_path, tiny_config(**WAYS[way]))
    report = train_bundle(order)
    assert len(load_bundle(order.output).refiners) == (1 if way in ("shared", "two scales", "half precision") else 2)
    assert all(0 <= miou <= 1 for miou in report["validation_miou_after_scale"])


@pytest.mark.slow
def test_a_class_that_validation_lacks_is_trained_all_the_same(tmp_path: Path) -> None:
    manifest = write_data(tmp_path)
    Pillow.fromarray(np.zeros((SIDE_PX, SIDE_PX), np.uint8)).save(tmp_path / "mask_4.png")
    order = order_of(manifest, tmp_path)
    assert train_bundle(order)["pixels_by_class"]["validation"] == [SIDE_PX**2, 0]


@pytest.mark.slow
def test_a_validation_of_a_few_pixels_will_do(tmp_path: Path) -> None:
    manifest = write_data(tmp_path)
    mask = np.full((SIDE_PX, SIDE_PX), 255, np.uint8)
    mask[100:108, 60:64], mask[100:108, 64:68] = 0, 1
    Pillow.fromarray(mask).save(tmp_path / "mask_4.png")
    assert train_bundle(order_of(manifest, tmp_path))["pixels_by_class"]["validation"] == [32, 32]


@pytest.mark.slow
def test_images_smaller_than_any_crop_will_do(tmp_path: Path) -> None:
    manifest = write_data(tmp_path)
    for i in range(6):
        image, mask = glands(i, 40)
        mask[:20], mask[20:] = 0, 1
        Pillow.fromarray(image).save(tmp_path / f"image_{i}.png")
        Pillow.fromarray(mask).save(tmp_path / f"mask_{i}.png")
    order = order_of(manifest, tmp_path)
    train_bundle(order)
    assert load_bundle(order.output).spec.name == "tiny"


@pytest.mark.slow
def test_labels_that_leave_classes_open_are_learned_from(tmp_path: Path) -> None:
    classes = tuple(ClassConfig(name) for name in ("background", "gland", "lumen"))
    order = order_of(write_data(tmp_path, labels="1=gland|lumen"), tmp_path, tiny_config(classes=classes))
    assert train_bundle(order)["pixels_by_class"]["train"][1:] == [15124, 15124]


# ---- what is refused, before anything is made -----------------------------------------------------------------------


def refused(order: TrainingSpec, kind: type[WsiMagnetError] = ManifestError) -> str:
    """The one line of the refusal of a training, which has left nothing behind."""
    with pytest.raises(kind) as caught:
        train_bundle(order)
    assert "\n" not in str(caught.value)
    assert not order.folder.exists()
    assert not order.output.exists()
    return str(caught.value)


def a_missing_file(folder: Path) -> str:
    (folder / "image_1.png").unlink()
    return "row 3: image "


def another_size(folder: Path) -> str:
    Pillow.fromarray(glands(2, 100)[1]).save(folder / "mask_2.png")
    return "mask_2.png is 100 x 100, the slide 160 x 160"


def an_unknown_label(folder: Path) -> str:
    mask = glands(3)[1]
    mask[5, 5] = 9
    Pillow.fromarray(mask).save(folder / "mask_3.png")
    return "unknown label 9"


def no_image(folder: Path) -> str:
    (folder / "image_4.png").write_text("no image")
    return "row 6: "


def an_open_contour(folder: Path) -> str:
    ring = [[10, 10], [60, 10], [60, 60], [10, 60]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    properties = {"classification": {"name": "gland"}}
    feature = {"type": "Feature", "geometry": geometry, "properties": properties}
    (folder / "mask_0.png").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return "row 2: "


@pytest.mark.parametrize("spoil", [a_missing_file, another_size, an_unknown_label, no_image, an_open_contour])
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, spoil: Callable[[Path], str]) -> None:
    manifest = write_data(tmp_path)
    said = spoil(tmp_path)
    text = refused(order_of(manifest, tmp_path))
    assert said in text
    assert "row " in text


def test_a_split_that_leaks_is_refused(tmp_path: Path) -> None:
    manifest = write_data(tmp_path, rows=(("a", "train"), ("b", "validation"), ("a", "validation")))
    assert "row 4: group 'a' is in train (row 2) and validation (row 4)" in refused(order_of(manifest, tmp_path))


def test_a_class_without_a_pixel_is_refused(manifest: Path, tmp_path: Path) -> None:
    classes = tuple(ClassConfig(name) for name in ("background", "gland", "lumen"))
    text = refused(order_of(manifest, tmp_path, tiny_config(classes=classes)))
    assert "class 'lumen' (2) has no pixel in the rows of train" in text


@pytest.mark.parametrize("missing", ["train", "validation"])
def test_a_split_without_rows_is_refused(tmp_path: Path, missing: str) -> None:
    other = "validation" if missing == "train" else "train"
    manifest = write_data(tmp_path, rows=(("a", other), ("b", "test")))
    assert f"no row of split {missing!r}" in refused(order_of(manifest, tmp_path), TrainingError)


def test_validation_rows_without_labels_are_refused(tmp_path: Path) -> None:
    manifest = write_data(tmp_path)
    Pillow.fromarray(np.full((SIDE_PX, SIDE_PX), 255, np.uint8)).save(tmp_path / "mask_4.png")
    assert "no validation row has a labelled pixel" in refused(order_of(manifest, tmp_path), TrainingError)


def test_labels_that_tell_no_two_classes_apart_are_refused(tmp_path: Path) -> None:
    classes = tuple(ClassConfig(name) for name in ("background", "gland", "lumen"))
    manifest = write_data(tmp_path, labels="0=background|gland; 1=gland|lumen")
    text = refused(order_of(manifest, tmp_path, tiny_config(classes=classes)), TrainingError)
    assert "no two classes are told apart" in text


def test_a_manifest_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(order_of(tmp_path / "none.csv", tmp_path))


def test_an_output_that_is_no_bundle_is_refused(manifest: Path, tmp_path: Path) -> None:
    order = replace(order_of(manifest, tmp_path), output=tmp_path / "bundle")
    assert "end it with .safetensors" in refused(order, ConfigError)


@pytest.mark.parametrize(
    ("backbone", "kind", "said"),
    [
        ({"encoder": "weights.pth"}, BundleError, "network 'small' takes no encoder weights"),
        ({"network": "fpn", "network_args": {}, "encoder": "none.pth"}, BundleError, "none.pth: No such file"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(
    manifest: Path, tmp_path: Path, backbone: dict[str, Any], kind: type[WsiMagnetError], said: str
) -> None:
    assert said in refused(order_of(manifest, tmp_path, tiny_config(backbone=backbone)), kind)


def test_a_network_without_weights_is_refused(manifest: Path, tmp_path: Path) -> None:
    classes = tuple(ClassConfig(name) for name in ("background", "gland", "lumen"))
    config = tiny_config(classes=classes, backbone={"network": "identity", "network_args": {}})
    assert "'identity' has nothing to learn" in refused(order_of(manifest, tmp_path, config), ConfigError)


def test_checking_counts_and_makes_nothing(manifest: Path, tmp_path: Path) -> None:
    order = order_of(manifest, tmp_path)
    found = check_spec(order)
    assert found["classes"] == ["background", "gland"]
    assert found["groups"] == {"train": ["a", "b"], "validation": ["c"]}
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_fits_is_taken(manifest: Path, tmp_path: Path) -> None:
    prefix = "resnet_backbone."
    state = {k.removeprefix(prefix): v for k, v in build_network("fpn", 2).state_dict().items() if k.startswith(prefix)}
    torch.save(state, tmp_path / "trunk.pth")
    config = tiny_config(backbone={"network": "fpn", "network_args": {}, "encoder": str(tmp_path / "trunk.pth")})
    assert check_spec(order_of(manifest, tmp_path, config))["classes"] == ["background", "gland"]


def test_a_manifest_with_a_row_twice_is_refused(tmp_path: Path) -> None:
    write_data(tmp_path)
    manifest = write_rows(tmp_path, [ROW, ROW])
    assert "row 3: image " in refused(order_of(manifest, tmp_path))
