"""Runs of imported models: masks are the network's own, whatever the tiles and workers, and none without trust."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.cli.test_networks_package import Command, command_in
from tests.commands import call_command, one_line
from tests.few import slow_except
from tests.nets.models_made import OneSize, Writes, scripted, traced, written
from tests.nets.test_import_model import FORMS, content_of, small
from tests.runs import MadeRun, labels_of, run_serially
from tests.slides_made import stained, write_pyramid
from tests.train.made import tiny_config, write_data
from wsi_magnet.config import Execution, RunConfig
from wsi_magnet.errors import BundleError
from wsi_magnet.geometry import Size
from wsi_magnet.nets.bundle import load_bundle, save_bundle
from wsi_magnet.nets.gate import PoolModule
from wsi_magnet.nets.import_model import ModelDescription, import_model
from wsi_magnet.nets.spec import read_spec
from wsi_magnet.nets.trust import running_model, trust
from wsi_magnet.segment.slide import segment_slide
from wsi_magnet.worker.context import NetworkKey, Networks

LADDER = ModelDescription(classes=("stroma", "gland", "lumen"), mpps=(2.0, 1.0, 0.5), input_multiple=32)


@pytest.fixture(autouse=True)
def own_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of trusted models that is the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six by four cells of 128 at 0.5 µm/px; two tiles of 512, or one of 1024."""
    return write_pyramid(tmp_path_factory.mktemp("slide") / "s.tif", stained(Size(700, 420)), mpp=0.5, factors=(2, 4))


def imported(folder: Path, content: bytes, described: ModelDescription) -> Path:
    path = folder / "imported.safetensors"
    import_model(written(folder, "model.bin", content), path, described, trusted=True)
    return path


def everything(tile_px: int, **options: object) -> RunConfig:
    return RunConfig(tile_px=tile_px, tissue=False, precision="fp32", **options)  # type: ignore[arg-type]


def whole(slide: Path, folder: Path, form: str) -> tuple[Path, npt.NDArray[np.uint8]]:
    """The bundle of a model, and its mask of a slide, which must be that of the network in the house."""
    network = small()
    bundle = imported(folder, content_of(form, network), replace(LADDER, cell_px=128))
    own = replace(read_spec(bundle)[0], network="small", network_args={"width": 4})
    save_bundle(folder / "own.safetensors", own, network, [PoolModule()])
    masks = [
        labels_of(run_serially(MadeRun(slide, path), folder / path.stem, everything(512)).folder)
        for path in (folder / "own.safetensors", bundle)
    ]
    assert len(np.unique(masks[0])) == 3
    assert (masks[0] == masks[1]).mean() >= 0.9999
    return bundle, masks[1]


@pytest.mark.parametrize("form", slow_except(["onnx", "torchscript"], FORMS))
def test_the_mask_is_the_networks_own_whatever_the_tiles(slide: Path, tmp_path: Path, form: str) -> None:
    bundle, mask = whole(slide, tmp_path, form)
    other = run_serially(MadeRun(slide, bundle), tmp_path / "other", everything(1024))
    assert np.array_equal(labels_of(other.folder), mask)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_workers_change_nothing(slide: Path, tmp_path: Path, form: str) -> None:
    bundle, mask = whole(slide, tmp_path, form)
    for execution in (Execution(), Execution(workers=2)):
        out = tmp_path / f"workers {execution.workers}"
        done = segment_slide(slide, out, bundle=bundle, config=everything(512), execution=execution)
        assert np.array_equal(labels_of(done.folder), mask)


def test_a_model_of_one_size_sees_exactly_that(slide: Path, tmp_path: Path) -> None:
    """It takes nothing but 192 x 192: every scale's patches have that side, and no window is cut."""
    network = small()
    described = replace(LADDER, input_px=192)
    content = traced(OneSize(network), 192)
    bundle = imported(tmp_path, content, described)
    made = MadeRun(slide, bundle)
    found = run_serially(made, tmp_path / "one", everything(512))
    scales = found.summary["scales"]
    assert [one["cells"] for one in scales] == [2, 6, 24]
    own = replace(read_spec(bundle)[0], network="small", network_args={"width": 4})
    save_bundle(tmp_path / "own.safetensors", own, network, [PoolModule()])
    expected = run_serially(MadeRun(slide, tmp_path / "own.safetensors"), tmp_path / "own", everything(1024)).folder
    assert (labels_of(found.folder) == labels_of(expected)).mean() >= 0.9999


def test_a_budget_is_spent_over_the_slide(slide: Path, tmp_path: Path) -> None:
    bundle = imported(tmp_path, traced(small()), replace(LADDER, cell_px=128))
    made = MadeRun(slide, bundle)
    done = run_serially(made, tmp_path / "out", everything(512, refine=0.2)).summary["scales"]
    refined = sum(one["cells_refined"] for one in done[1:])
    assert 0 < refined <= round(0.2 * sum(one["cells"] for one in done[1:])) + 1


def test_a_worker_lets_run_what_the_client_trusts(tmp_path: Path) -> None:
    bundle = imported(tmp_path, traced(small()), LADDER)
    spec, sha256 = read_spec(bundle)
    model = running_model(spec)
    assert model is not None
    trust(model, "", forget=True)  # as on a host where the user has no list
    key = NetworkKey(str(bundle), sha256, "cpu", None, "fp32", trusted=model)
    Networks(key).close()
    with pytest.raises(BundleError, match=r"worker on .*: bundle .* whose code would run here"):
        Networks(replace(key, trusted=None))


def test_a_run_without_onnxruntime_is_refused_before_a_folder_is_made(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(read_spec(imported(tmp_path, traced(small()), LADDER))[0])
    onnx = replace(spec, network_args={**spec.network_args, "form": "onnx"})
    save_bundle(
        tmp_path / "o.safetensors", onnx, load_bundle(tmp_path / "imported.safetensors").backbone, [PoolModule()]
    )
    monkeypatch.setattr("wsi_magnet.nets.trust.find_spec", lambda name: None)
    found = call_command("run", slide, "-o", tmp_path / "out", "--bundle", tmp_path / "o.safetensors")
    assert 'holds an ONNX model; install onnxruntime: pip install "wsi-magnet[onnx]"' in one_line(found)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def hostile(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A bundle of somebody else with code in it, and the file that its code would write."""
    mark = tmp_path / "mark"
    bundle = imported(tmp_path, scripted(Writes(str(mark))), replace(LADDER, input_multiple=1))
    mark.unlink()
    model = running_model(read_spec(bundle)[0])
    assert model is not None
    trust(model, "", forget=True)
    yield bundle, mark
    assert not mark.exists()


def test_no_command_runs_a_bundle_that_is_not_trusted(hostile: tuple[Path, Path], slide: Path, tmp_path: Path) -> None:
    bundle, _ = hostile
    write_data(tmp_path)
    (tmp_path / "c.yaml").write_text(json.dumps(training_on(bundle)))
    slides = tmp_path / "slides"
    slides.mkdir()
    (slides / "s.tif").symlink_to(slide)
    training = ("train", tmp_path / "manifest.csv", "--config", tmp_path / "c.yaml", "-o", tmp_path / "t.safetensors")
    commands = [
        ("run", slide, "-o", tmp_path / "out", "--bundle", bundle),
        ("batch", slides, "-o", tmp_path / "batch", "--bundle", bundle),
        ("plan", slide, "--bundle", bundle),
        (*training, "--backbone", bundle),
    ]
    for command in commands:
        assert "holds a TorchScript program, whose code would run here; if you know" in one_line(call_command(*command))
    assert not (tmp_path / "out").exists()
    shown = call_command("bundle", "show", bundle)
    assert shown.exit_code == 0
    assert "exported" in shown.output


def training_on(bundle: Path) -> dict[str, object]:
    """A tiny training of refinement modules on an imported backbone."""
    spec, _ = read_spec(bundle)
    config = tiny_config(mpps=spec.mpps, cell_px=128, validation_views=1, halo_px=32).to_json()
    config["classes"] = [{"name": one.name} for one in spec.classes]
    config["backbone"] = {"network": "exported"}
    config["refiners"] |= {"steps": 2}
    return config


def test_trusting_is_a_command(tmp_path: Path, slide: Path) -> None:
    model = written(tmp_path, "small.pt", traced(small()))
    bundle = tmp_path / "b.safetensors"
    about = ("--classes", "stroma,gland,lumen", "--mpps", "1", "--input-px", "any:32", "--scale-to", "-1,1")
    given = ("bundle", "import-model", model, "-o", bundle, *about, "--cell-px", "128")
    assert "TorchScript program, whose code runs when it is opened; nothing was opened." in one_line(
        call_command(*given)
    )
    done = call_command(*given, "--trust")
    assert done.exit_code == 0, done.output
    assert "torchscript, 3 classes, scales 1 µm/px, cells of 128 px" in done.output
    assert read_spec(bundle)[0].mean == (0.5, 0.5, 0.5)
    assert "exists" in one_line(call_command(*given))
    assert call_command("bundle", "trust", bundle, "--forget").exit_code == 0
    one_line(call_command("run", slide, "-o", tmp_path / "out", "--bundle", bundle))
    trusted = call_command("bundle", "trust", bundle)
    assert "is trusted, by" in trusted.output
    done = call_command("run", slide, "-o", tmp_path / "out", "--bundle", bundle, "--no-tissue")
    assert done.exit_code == 0, done.output
    assert "it needs no trust" in call_command("bundle", "trust", "default").output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--mpps", "one", "--input-px", "any"), "give numbers separated by commas"),
        (("--mpps", "1", "--input-px", "large"), "give a number of pixels, any, or any:MULTIPLE"),
        (("--mpps", "1", "--input-px", "256:32"), "give a number of pixels, any, or any:MULTIPLE"),
        (("--mpps", "1", "--input-px", "any", "--mean", "1,2"), "give three numbers"),
        (("--mpps", "1", "--input-px", "any", "--mean", "0", "--scale-to", "0,1"), "replaces --mean and --std"),
        (("--mpps", "1", "--input-px", "any", "--channel-order", "GBR"), "'GBR' is not one of"),
    ],
)
def test_options_that_cannot_be_are_a_usage_error(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    model = written(tmp_path, "m.pt", b"model")
    found = call_command(
        "bundle", "import-model", model, "-o", tmp_path / "b.safetensors", "--classes", "a,b", *options
    )
    assert found.exit_code == 2
    assert said in found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_it_is_planned_evaluated_and_taken_as_a_backbone(tmp_path: Path, form: str) -> None:
    write_data(tmp_path)
    described = replace(LADDER, mpps=(4.0, 2.0, 1.0), classes=("background", "gland"), cell_px=128)
    bundle = imported(tmp_path, content_of(form, small(2)), described)
    run: Command = command_in(tmp_path)
    (tmp_path / "c.yaml").write_text(json.dumps(training_on(bundle)))
    more = ("--backbone", str(bundle), "--threads", "1")
    done = run("train", "manifest.csv", "--config", "c.yaml", "-o", "trained.safetensors", *more)
    assert done.returncode == 0, done.stderr
    spec = load_bundle(tmp_path / "trained.safetensors").spec
    assert (spec.network, spec.refiner, spec.network_args["form"]) == ("exported", "magnet", form)
    assert spec.network_args == read_spec(bundle)[0].network_args
    done = run("plan", "image_5.png", "--mpp", "1", "--no-tissue", "--bundle", "trained.safetensors")
    assert done.returncode == 0, done.stderr
    methods = ("--methods", "MagNet", "--no-tissue", "--device", "cpu")
    done = run("evaluate", "manifest.csv", "--bundle", "trained.safetensors", *methods)
    assert done.returncode == 0, done.stderr
    assert "MagNet" in done.stdout
