"""The paper's data sets and the joined prostate sets: the Makefile's commands, on miniatures, from folder to table."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.commands import Call
from tests.evaluate.made import stay_here
from tests.few import slow_except
from tests.parity.recipe import shapes
from tests.pipelines.miniatures import MAKERS
from tests.train.made import SMALL_VALIDATION_PX, quick_survey, setting_of, write_config
from wsi_magnet.annotations.coding import Coding
from wsi_magnet.dataset.label_counts import count_manifest_labels
from wsi_magnet.dataset.layouts import aggc, cityscapes, deepglobe, gleason2019, panda, sicapv2
from wsi_magnet.dataset.manifest import read_manifest
from wsi_magnet.dataset.open_sample import SamplePool
from wsi_magnet.evaluate.poster import CITYSCAPES, DEEPGLOBE, GLEASON, POSTER
from wsi_magnet.methods.losses import class_weights
from wsi_magnet.nets.bundle import load_bundle
from wsi_magnet.nets.registry import build_network, build_refiner
from wsi_magnet.nets.spec import read_spec
from wsi_magnet.train.backbone import BackboneStage
from wsi_magnet.train.config import MethodConfig, TrainingConfig, read_config
from wsi_magnet.train.sampler import CropSampler, class_pixels
from wsi_magnet.train.views import StageData, Windows

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "pipelines" / "configs"

PAPER = {
    "cityscapes": ("hrnet18+ocr", 19, 6_379_278, 924, 4, 103_500),
    "deepglobe": ("fpn", 7, 28_064_839, 344, 3, 88_092),
    "gleason-2019": ("psp", 5, 72_319_501, 658, 4, 85_524),
}
"""Published network, classes, parameters, tensors, scales, and parameters of a refinement module, by configuration."""

REFINER_TENSORS = 60

DATA = {
    "cityscapes": {"DATA": "cityscapes"},
    "deepglobe": {"DATA": "deepglobe"},
    "gleason-2019": {"DATA": "gleason2019"},
    "prostate-gleason": {"PANDA": "panda", "SICAPV2": "sicapv2", "AGGC": "aggc", "GLEASON2019": "gleason2019"},
}
"""Variables of the Makefile and the folders that they name, by target."""

targets = pytest.mark.parametrize("target", DATA)
papers = pytest.mark.parametrize("name", PAPER)


def config_of(name: str) -> TrainingConfig:
    return read_config(CONFIGS / f"{name}.yaml")


def commands(target: str, folder: Path, out: Path, **variables: str) -> list[list[str]]:
    """Arguments of the `wsi-magnet` commands of a target."""
    if not shutil.which("make"):
        pytest.skip("there is no make")
    given = {name: str(folder / value) for name, value in DATA[target].items()}
    arguments = [f"{name}={value}" for name, value in {**given, "TRAIN_OUT": str(out), **variables}.items()]
    made = subprocess.run(["make", "-n", "-C", ROOT, target, *arguments], capture_output=True, text=True, check=True)
    return [shlex.split(line)[1:] for line in made.stdout.splitlines() if re.match(r"\S+/wsi-magnet ", line)]


def smallest(config: TrainingConfig) -> TrainingConfig:
    """The configuration with networks and steps that take a second; scales, classes, losses and schedules stay."""
    backbone = replace(config.backbone, network="small", network_args={"width": 2}, encoder=None, crop_px=64)
    refiners = replace(config.refiners, module="light", window_px=64, crop_px=24, ohem_kept=100)
    learning = {"PointRend": MethodConfig(steps=1, batch=1, window_px=64)} if config.methods else {}
    return replace(
        config,
        methods=learning,
        validation_views=2,
        precision="fp32",
        backbone=replace(backbone, steps=4, batch=2, validate_every=2, keep_from=0.0),
        refiners=replace(refiners, steps=3, batch=1, validate_every=3, keep_from=0.0),
    )


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and evaluation in this process, on small windows, without pictures of curves."""
    stay_here(monkeypatch)
    monkeypatch.setattr("wsi_magnet.train.pipeline.VALIDATION_PX", SMALL_VALIDATION_PX)
    monkeypatch.setattr("wsi_magnet.train.pipeline.draw_curves", lambda histories, path: None)
    monkeypatch.setattr("wsi_magnet.train.pipeline.survey_rows", quick_survey)


def run_target(call: Call, target: str, tmp_path: Path, **variables: str) -> str:
    """Make the miniatures and run the target's commands with the smallest configuration; the evaluation's output."""
    for folder in DATA[target].values():
        MAKERS[folder](tmp_path / folder)
    text = ""
    for command in commands(target, tmp_path, tmp_path / "out", **variables):
        if command[0] == "train":
            where = command.index("--config") + 1
            small = smallest(read_config(ROOT / command[where]))
            command[where] = str(write_config(tmp_path / "small.yaml", small))
            command += ["--device", "cpu", "--threads", "1"]
        result = call(*command)
        assert result.exit_code == 0, (command, result.output)
        text = result.stdout
    return text


def rows_of(text: str) -> list[list[str]]:
    """Lines of the first table of an evaluation, split at two spaces."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.partition("\n\n")[0].splitlines()]


@pytest.mark.slow
@pytest.mark.usefixtures("_quick")
@papers
def test_a_data_set_of_the_paper_from_its_folder_to_the_table(call: Call, tmp_path: Path, name: str) -> None:
    text = run_target(call, name, tmp_path)
    table = rows_of(text)
    assert [row[0] for row in table] == ["method", "Patching", "Downsample", "PointRend", "MagNet-Fast", "MagNet"]
    report = json.loads((tmp_path / "out" / f"{name}-judged" / "evaluation.json").read_text())
    by_value = sorted(config_of(name).class_infos(), key=lambda one: one.value)
    assert [one["name"] for one in report["classes"]] == [one.name for one in by_value]
    left_out = {"unknown", "not annotated"}
    assert f"means over {', '.join(one.name for one in by_value if one.name not in left_out)}." in text
    assert all(one["pixels"] for one in report["classes"])
    assert all(0 <= row["measures"]["miou"]["value"] <= 1 for row in report["rows"])
    spec = read_spec(tmp_path / "out" / f"{name}.safetensors")[0]
    assert (spec.mpps, spec.classes) == (config_of(name).mpps, config_of(name).class_infos())
    assert spec.median_px == config_of(name).median_px


@pytest.mark.slow
@papers
def test_the_published_network_learns_from_the_miniatures(call: Call, tmp_path: Path, name: str) -> None:
    MAKERS[DATA[name]["DATA"]](tmp_path / DATA[name]["DATA"])
    listing, *_ = commands(name, tmp_path, tmp_path)
    assert call(*listing).exit_code == 0
    config = config_of(name)
    config = replace(config, backbone=replace(config.backbone, crop_px=64))
    network, classes = build_network(config.backbone.network, len(config.classes)), config.class_infos()
    manifest = read_manifest(listing[listing.index("-o") + 1])
    counts = count_manifest_labels(manifest, classes, config.mpps[-1], ["train"])
    with closing(SamplePool(classes)) as pool:
        weights = class_weights(class_pixels(counts, len(classes)), config.class_weight)
        data = StageData(
            pool,
            CropSampler(counts, len(classes), config.class_balance),
            None if weights is None else torch.from_numpy(weights),
            (),
            Windows(SMALL_VALIDATION_PX, config.halo_px, config.mpps),
            tuple(range(len(classes))),
            config.background_set,
        )
        stage = BackboneStage(network, config, data, setting_of(tmp_path))
        loss = stage.loss(stage.draw(0, range(2)), 0)
    loss.backward()
    auxiliary = 1 + config.backbone.auxiliary if hasattr(network, "heads") else 1.0
    assert 0.3 < float(loss.detach()) / (auxiliary * math.log(len(classes))) < 3, "that of a network that knows nothing"
    assert all(one.grad is not None and bool(torch.isfinite(one.grad).all()) for one in network.parameters())


@pytest.mark.slow
@pytest.mark.usefixtures("_quick")
def test_real_tiles_judge_what_miniatures_trained(call: Call, tmp_path: Path, test_data: Path) -> None:
    for kind in ("img", "mask"):
        (tmp_path / "tiles" / kind).mkdir(parents=True)
        for path in (test_data / "gleason_tiles" / kind).glob("test100.*"):
            (tmp_path / "tiles" / kind / path.name).symlink_to(path)
    MAKERS["panda"](tmp_path / "panda")
    paths = [tmp_path / "panda.csv", tmp_path / "tiles.csv"]
    assert call("manifest", "panda-radboud", tmp_path / "panda", "-o", paths[0]).exit_code == 0
    labels = ["--mpp", 0.5, "--labels", "0=3; 1=4; 2=5; 3=2; 4=1"]
    assert call("manifest", "folders", tmp_path / "tiles", "-o", paths[1], *labels).exit_code == 0
    merged = tmp_path / "merged.csv"
    assert call("manifest", "merge", *paths, "-o", merged, "--test", "tiles").exit_code == 0
    bundle = tmp_path / "b.safetensors"
    config = write_config(tmp_path / "c.yaml", smallest(config_of("prostate-gleason")))
    given = ["--config", config, "-o", bundle, "--device", "cpu", "--threads", 1]
    assert call("train", merged, *given).exit_code == 0
    (row,) = json.loads(call("evaluate", merged, "--bundle", bundle, "--methods", "magnet", "--json").stdout)["rows"]
    assert 0 <= row["measures"]["miou"]["value"] < 1
    assert row["images"][0]["labelled_pixels"] == 600 * 600


@pytest.mark.slow
@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(
    ("held_out", "classes"),
    [
        ("aggc", ["stroma", "benign epithelium", "Gleason 3", "Gleason 4", "Gleason 5"]),
        ("sicapv2", ["stroma/benign epithelium", "Gleason 3", "Gleason 4", "Gleason 5"]),
    ],
)
def test_four_prostate_data_sets_become_a_bundle_that_another_site_judges(
    call: Call, tmp_path: Path, held_out: str, classes: list[str]
) -> None:
    text = run_target(call, "prostate-gleason", tmp_path, HELD_OUT=held_out)
    assert [row[0] for row in rows_of(text)] == ["method", "Patching", "Downsample", "MagNet-Fast", "MagNet"]
    manifest = read_manifest(tmp_path / "out" / "prostate-gleason.csv")
    assert {sample.site for sample in manifest.of("test")} == {held_out}
    assert {sample.site for sample in manifest.of("train")} == {"panda", "sicapv2", "aggc", "gleason2019"} - {held_out}
    report = json.loads((tmp_path / "out" / "prostate-gleason-judged" / "evaluation.json").read_text())
    assert [one["name"] for one in report["classes"]] == classes
    assert {one["group"].partition("/")[0] for one in report["images"]} == {held_out}
    assert all(one["pixels"] for one in report["classes"])


@targets
def test_the_head_of_the_configuration_has_the_commands_of_the_makefile(target: str, tmp_path: Path) -> None:
    head = (CONFIGS / f"{target}.yaml").read_text(encoding="utf-8").replace(" \\\n#      ", "")
    shown = [shlex.split(line) for line in re.findall(r"^#   wsi-magnet (.*)$", head, re.MULTILINE)]
    folders = {value: name for name, value in DATA[target].items()}
    assert [_plain(command, {}) for command in shown] == [
        _plain(command, {**folders, DATA[target].get("DATA", ""): "FOLDER"})
        for command in commands(target, tmp_path, tmp_path / "out")
    ]


def _plain(command: Sequence[str], folders: dict[str, str]) -> list[str]:
    """Arguments without the folders of files, and without --overwrite, which a target needs."""
    names = [argument if " " in argument else Path(argument).name for argument in command if argument != "--overwrite"]
    return [folders.get(name, name) if place == 2 else name for place, name in enumerate(names)]


@targets
def test_the_head_states_time_differences_and_the_papers_figures(target: str) -> None:
    head = (CONFIGS / f"{target}.yaml").read_text(encoding="utf-8").partition("\nname:")[0]
    assert re.search(
        r"^# Time, an estimate for the GPU of docs/performance.md: (?:\d+ hours|a day)\.", head, re.MULTILINE
    )
    assert ("Patching" in head and "Different:" in head) == (target in PAPER)


CODINGS: dict[str, list[tuple[str, Iterable[int | str]]]] = {
    "cityscapes": [(cityscapes.LABELS, range(34))],
    "deepglobe": [(deepglobe.LABELS, deepglobe.COLOURS)],
    "prostate-gleason": [
        (panda.LABELS["radboud"], range(6)),
        (sicapv2.LABELS, range(4)),
        *((f"0=ignore; 1={value}; 255={value}", (0, 1, 255)) for value in aggc.CLASSES.values()),
        (gleason2019.LABELS, (0, 1, 3, 4, 5, 6)),
    ],
}
"""Codings and the labels that occur, by configuration."""


@targets
def test_the_classes_are_those_of_the_coding(target: str, tmp_path: Path) -> None:
    classes = config_of(target).class_infos()
    codings = CODINGS.get(target)
    if codings is None:  # the command gives its own
        (command,) = (one for one in commands(target, tmp_path, tmp_path) if one[0] == "manifest")
        codings = [(command[command.index("--labels") + 1], (0, 1, 3, 4, 5, 6))]
    told_apart = set()
    for text, labels in codings:
        coding = Coding.parse(text, classes)
        sets = [coding.set_of(label) for label in labels]
        assert all(sets)
        told_apart |= {one for one in sets if one.bit_count() == 1}
    assert told_apart == {1 << i for i in range(len(classes))}, "each class is named by a label of its own"


def test_no_class_of_a_street_or_a_landscape_is_glass() -> None:
    for name in PAPER:
        assert config_of(name).background_set is None


@papers
def test_networks_are_the_published_ones(name: str) -> None:
    network, n_classes, parameters, tensors, scales, refiner = PAPER[name]
    config = config_of(name)
    assert (config.backbone.network, len(config.classes), len(config.mpps)) == (network, n_classes, scales)
    assert config.refiners.shared == (name != "cityscapes")
    with torch.device("meta"):
        made, module = build_network(network, n_classes), build_refiner(config.refiners.module, n_classes)
    assert (sum(p.numel() for p in made.parameters()), len(made.state_dict())) == (parameters, tensors)
    assert (sum(p.numel() for p in module.parameters()), len(module.state_dict())) == (refiner, REFINER_TENSORS)
    assert {key: list(one.shape) for key, one in made.state_dict().items()} == published_shapes(network, n_classes)
    assert {key: list(one.shape) for key, one in module.state_dict().items()} == published_shapes("refiner", n_classes)


@papers
def test_other_methods_are_those_of_the_poster(name: str) -> None:
    data_set = {"cityscapes": CITYSCAPES, "deepglobe": DEEPGLOBE, "gleason-2019": GLEASON}[name]
    on_the_poster = {method for method, figures in POSTER.items() if data_set in figures}
    assert set(config_of(name).methods) == on_the_poster - {"Patching", "Downsample", "MagNet-Fast", "MagNet"}


def published_shapes(network: str, n_classes: int) -> dict[str, list[int]]:
    """Shapes of a published checkpoint, which are known for 5 classes: no other axis is 5 or 10 long."""
    axes = {5: n_classes, 10: 2 * n_classes}
    return {key: [axes.get(length, length) for length in shape] for key, shape in shapes(network).items()}


@pytest.mark.parametrize("name", slow_except(["cityscapes"], PAPER))
def test_published_checkpoints_become_bundles_of_the_configuration(call: Call, tmp_path: Path, name: str) -> None:
    network, n_classes, *_ = PAPER[name]
    config = config_of(name)
    count = 1 if config.refiners.shared else len(config.mpps) - 1
    backbone = _checkpoint(tmp_path / "backbone.pth", published_shapes(network, n_classes), "model.")
    refiners = [
        _checkpoint(tmp_path / f"refinement{i}.pth", published_shapes("refiner", n_classes)) for i in range(count)
    ]
    bundle = tmp_path / "published.safetensors"
    given = ["--config", CONFIGS / f"{name}.yaml", "--backbone", backbone, "--refiner", *refiners]
    result = call("bundle", "import-magnet", *given, "-o", bundle)
    assert result.exit_code == 0, result.output
    spec = load_bundle(bundle).spec
    assert (spec.network, spec.mpps, spec.classes) == (network, config.mpps, config.class_infos())
    assert (spec.n_refiners, spec.median_px, spec.channel_order) == (count, config.median_px, "fine_first")


def _checkpoint(path: Path, shapes_of: dict[str, list[int]], prefix: str = "") -> Path:
    """Zeros of these shapes, as the published program saves its weights."""
    counter = "num_batches_tracked"
    state = {
        prefix + key: torch.zeros(shape, dtype=torch.int64 if key.endswith(counter) else torch.float32)
        for key, shape in shapes_of.items()
    }
    torch.save(state, path)
    return path


def test_a_configuration_replaces_the_options_of_an_import(call: Call, tmp_path: Path) -> None:
    given = ["bundle", "import-magnet", "--backbone", "b", "--refiner", "r", "-o", tmp_path / "x.safetensors"]
    config = ["--config", CONFIGS / "deepglobe.yaml"]
    assert call(*given).exit_code == 2
    assert call(*given, *config, "--network", "fpn").exit_code == 2
    assert call(*given, *config, "--scales", "2,1").exit_code == 2
    assert "No such file" in call(*given, *config).stderr
