"""Patch classifiers with WSInfer's config.json: read strictly, and used as segmentation with one class a block."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.commands import call_command, one_line
from tests.nets.models_made import Writes, scripted, written
from tests.runs import MadeRun, labels_of, run_serially
from tests.slides_made import stained, write_pyramid
from wsi_magnet.config import RunConfig
from wsi_magnet.errors import BundleError, ConfigError
from wsi_magnet.geometry import Size
from wsi_magnet.nets.bundle import load_bundle
from wsi_magnet.nets.import_model import ModelDescription, import_model
from wsi_magnet.nets.spec import read_spec
from wsi_magnet.nets.trust import trusted_hashes
from wsi_magnet.nets.wsinfer import read_config

MEAN, STD = (0.7238, 0.5716, 0.6779), (0.112, 0.1459, 0.1089)
CONFIG: dict[str, Any] = {
    "spec_version": "1.0",
    "architecture": "resnet34",
    "num_classes": 2,
    "class_names": ["Other", "Tumor"],
    "patch_size_pixels": 100,
    "spacing_um_px": 0.5,
    "transform": [
        {"name": "Resize", "arguments": {"size": 80}},
        {"name": "ToTensor"},
        {"name": "Normalize", "arguments": {"mean": list(MEAN), "std": list(STD)}},
    ],
}
"""In the form of the zoo's files."""


@pytest.fixture(autouse=True)
def own_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of trusted models that is the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


class Classifier(nn.Module):
    """Tumour where the middle of a patch is more colourful than its surroundings; it takes 80 x 80 pixels only."""

    def __init__(self, n_classes: int = 2) -> None:
        super().__init__()
        self.n_classes = n_classes

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 80, 80) to logits (N, 2) or (N, 1)."""
        assert x.shape[2] == 80
        assert x.shape[3] == 80
        found = 50 * (x[:, 0] - x[:, 1])
        logit = found[:, 30:50, 30:50].mean(dim=(1, 2)) - found.mean(dim=(1, 2))
        if self.n_classes == 1:
            return logit[:, None]
        return torch.stack([torch.zeros_like(logit), logit], dim=1)


def folder_with(folder: Path, config: object, model: bytes | None = None) -> Path:
    """The model's file, beside a config.json."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(config if isinstance(config, bytes) else json.dumps(config).encode())
    return written(folder, "torchscript_model.pt", model or scripted(Classifier()))


def imported(folder: Path, config: dict[str, Any], model: bytes | None = None) -> Path:
    path = folder_with(folder / "zoo", config, model)
    bundle = folder / "b.safetensors"
    import_model(path, bundle, read_config(path.parent), trusted=True, overwrite=True)
    return bundle


def test_a_folder_without_a_description_is_named() -> None:
    folder = Path(__file__).parent
    with pytest.raises(BundleError, match=r"config.json: No such file"):
        read_config(folder)


def test_its_values_are_the_models(tmp_path: Path) -> None:
    described = read_config(folder_with(tmp_path / "zoo", CONFIG).parent)
    assert described == ModelDescription(
        classes=("Other", "Tumor"),
        mpps=(0.5,),
        input_px=100,
        resized_px=80,
        mean=MEAN,
        std=STD,
        classifies=True,
    )
    plain = {**CONFIG, "transform": [{"name": "ToTensor"}], "size_on_disk": 12}
    described = read_config(folder_with(tmp_path / "zoo", plain).parent)
    assert (described.resized_px, described.mean, described.std) == (None, (0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    ("patch", "block", "margin"),
    [(16, 16, 16), (100, 64, 18), (224, 128, 48), (256, 256, 16), (299, 256, 22), (350, 256, 47), (1200, 512, 344)],
)
def test_blocks_are_powers_of_two_and_patches_lie_round_them(
    tmp_path: Path, patch: int, block: int, margin: int
) -> None:
    spec, _ = read_spec(imported(tmp_path, {**CONFIG, "patch_size_pixels": patch}))
    assert (spec.network_args["block_px"], spec.network_args["margin_px"], spec.cell_px) == (block, margin, 512)
    assert spec.patch_px == 512 + 2 * margin
    with pytest.raises(ConfigError, match=r"cell_px 128 is smaller than the blocks of 512 pixels"):
        import_model(
            tmp_path / "zoo" / "torchscript_model.pt",
            tmp_path / "other.safetensors",
            ModelDescription(classes=("a", "b"), mpps=(1.0,), input_px=600, classifies=True, cell_px=128),
            trusted=True,
        )


def twin(image: np.ndarray, x0: int, y0: int, classifier: Classifier, classes: int = 2) -> int:
    """The label of the block at a place by Pillow's resizing of the patch round it."""
    before = (100 - 64) // 2
    patch = Image.fromarray(image[y0 - before : y0 - before + 100, x0 - before : x0 - before + 100])
    pixels = np.asarray(patch.resize((80, 80), Image.Resampling.BILINEAR), np.float32) / 255
    normalised = (pixels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    x = torch.from_numpy(normalised).permute(2, 0, 1)[None]
    logits = classifier(x)[0]
    return int(logits.argmax()) if classes == 2 else int(logits[0] > 0)


@pytest.mark.parametrize("classes", [1, 2])
def test_a_mask_has_the_class_of_each_block_whatever_the_tiles(tmp_path: Path, classes: int) -> None:
    names = CONFIG["class_names"][-classes:]
    config = {**CONFIG, "num_classes": classes, "class_names": names}
    bundle = imported(tmp_path, config, scripted(Classifier(classes)))
    assert [one.name for one in read_spec(bundle)[0].classes] == ([*names] if classes == 2 else ["other", "Tumor"])
    picture = stained(Size(700, 420))
    slide = write_pyramid(tmp_path / "s.tif", picture, mpp=0.5)
    masks = []
    for tile_px in (512, 1024):
        made = RunConfig(tile_px=tile_px, tissue=False, precision="fp32")
        masks.append(labels_of(run_serially(MadeRun(slide, bundle), tmp_path / f"{tile_px}", made).folder))
    assert np.array_equal(masks[0], masks[1])
    values = [one.value for one in read_spec(bundle)[0].classes]
    compared = []
    for y0 in range(64, 420 - 100, 64):
        for x0 in range(64, 700 - 100, 64):
            block = masks[0][y0 : y0 + 64, x0 : x0 + 64]
            assert len(np.unique(block)) == 1
            compared.append((block[0, 0], values[twin(picture, x0, y0, Classifier(classes), classes)]))
    assert len({own for own, _ in compared}) == 2
    assert np.mean([own == other for own, other in compared]) >= 0.97, "the resizing to bytes can tip one"


def test_other_sides_than_a_cells_are_computed(tmp_path: Path) -> None:
    network = load_bundle(imported(tmp_path, CONFIG)).backbone
    x = torch.randn(2, 3, 292, 150)
    found = network(x)
    assert found.shape == (2, 2, 292, 150)
    assert torch.equal(found[1:], network(x[1:]))
    assert torch.equal(found[..., 18 : 18 + 64, 18 : 18 + 64], found[..., 18:19, 18:19].expand(2, 2, 64, 64))


# ---- refused ---------------------------------------------------------------------------------------------------------


def _changed(**changes: Any) -> Callable[[], object]:
    return lambda: {**CONFIG, **changes}


def _without(key: str) -> Callable[[], object]:
    return lambda: {name: value for name, value in CONFIG.items() if name != key}


def _normalised(**arguments: object) -> Callable[[], object]:
    return _changed(transform=[{"name": "ToTensor"}, {"name": "Normalize", "arguments": arguments}])


def _resized(size: object) -> Callable[[], object]:
    return _changed(transform=[{"name": "Resize", "arguments": {"size": size}}, {"name": "ToTensor"}])


BROKEN: dict[str, tuple[Callable[[], object], str]] = {
    "nothing": (lambda: b"", "it is not JSON"),
    "text": (lambda: b"model: resnet", "it is not JSON"),
    "bytes": (lambda: b"\xff\xfe\x00{}", "it is not JSON"),
    "a thousand brackets": (lambda: b"[" * 200_000, "it is not JSON"),
    "two megabytes": (lambda: b" " * 2_000_000 + b"{}", "more than 1,000,000 bytes"),
    "a list": (lambda: [CONFIG], "not"),
    "of another program": (lambda: {"model_type": "segformer"}, "missing field"),
    "another version": (_changed(spec_version="2.0"), "spec_version"),
    "no spacing": (_without("spacing_um_px"), "missing field 'spacing_um_px'"),
    "spacing 0": (_changed(spacing_um_px=0), "spacing_um_px"),
    "spacing not a number": (lambda: json.dumps(CONFIG).replace("0.5,", "NaN,", 1).encode(), "spacing_um_px"),
    "spacing infinite": (lambda: json.dumps(CONFIG).replace("0.5,", "1e999,", 1).encode(), "spacing_um_px"),
    "no patch": (_changed(patch_size_pixels=0), "patch_size_pixels"),
    "a patch of a gigapixel": (_changed(patch_size_pixels=40_000), "patch_size_pixels"),
    "half a pixel": (_changed(patch_size_pixels=99.5), "patch_size_pixels"),
    "three names": (_changed(class_names=["a", "b", "c"]), "class_names has 3 names, and num_classes is 2"),
    "no class": (_changed(num_classes=0, class_names=[]), "num_classes"),
    "a million classes": (_changed(num_classes=10**6), "num_classes"),
    "names that are numbers": (_changed(class_names=[1, 2]), "class_names"),
    "an unknown preparation": (_changed(transform=[{"name": "CenterCrop"}, {"name": "ToTensor"}]), "transform"),
    "code as a preparation": (_changed(transform=[{"name": "eval", "arguments": {"code": "exit()"}}]), "transform"),
    "another order": (_changed(transform=[{"name": "ToTensor"}, {"name": "Resize"}]), "transform is ToTensor, Resize"),
    "twice": (_changed(transform=[{"name": "ToTensor"}] * 2), "transform is ToTensor, ToTensor"),
    "no preparation": (_changed(transform=[]), "transform is empty"),
    "no square": (_resized([100, 200]), r"size \[100, 200\] is no square"),
    "a size of 0": (_resized(0), r"size \[0, 0\] is no square"),
    "a size of words": (_resized("large"), "transform.Resize.size"),
    "an interpolation": (
        _changed(
            transform=[{"name": "Resize", "arguments": {"size": 80, "interpolation": 3}}, {"name": "ToTensor"}],
        ),
        "unknown field 'interpolation'",
    ),
    "two means": (_normalised(mean=[0.5, 0.5], std=[1, 1, 1]), "transform.Normalize.mean"),
    "a deviation of 0": (_normalised(mean=[0.5] * 3, std=[1, 1, 0]), r"std \[1.0, 1.0, 0.0\] is not positive"),
}
"""Contents of config.json, and the reason for which they are refused."""


@pytest.mark.parametrize("name", BROKEN)
def test_broken_and_hostile_descriptions_are_refused(tmp_path: Path, name: str) -> None:
    make, said = BROKEN[name]
    mark = tmp_path / "mark"
    path = folder_with(tmp_path / "zoo", make(), scripted(Writes(str(mark))))
    found = one_line(call_command("bundle", "import-model", path, "--trust", "-o", tmp_path / "b.safetensors"))
    assert "config.json" in found
    with pytest.raises(BundleError, match=said):
        read_config(path.parent)
    assert not (tmp_path / "b.safetensors").exists()
    assert not mark.exists(), "no code runs before the description is understood"
    assert not trusted_hashes()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a", "A"], "empty or repeated"),
        (["a", ""], "empty or repeated"),
        (["a\nb", "c"], "control characters"),
        (["not analysed", "c"], "pixels that could not be read"),
    ],
)
def test_names_that_cannot_be_are_refused(tmp_path: Path, names: list[str], said: str) -> None:
    path = folder_with(tmp_path / "zoo", {**CONFIG, "class_names": names})
    assert said in one_line(call_command("bundle", "import-model", path, "--trust", "-o", tmp_path / "b.safetensors"))


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a map": (nn.Identity, r"returned float32 \[1, 3, 80, 80\] .* with 2 classes and a class a patch .* \[1, 2\]"),
    "three classes": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), r"returned float32 \[1, 3\]"),
    "float64": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(19_200, 2).double()), "fails on a patch"),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_are_no_classifiers_are_refused(tmp_path: Path, name: str) -> None:
    make, said = MODELS[name]
    with pytest.raises(BundleError, match=said):
        imported(tmp_path, CONFIG, scripted(make()))


# ---- command ---------------------------------------------------------------------------------------------------------


def test_the_command_reads_what_lies_beside_the_model(tmp_path: Path) -> None:
    mark, bundle = tmp_path / "mark", tmp_path / "b.safetensors"
    path = folder_with(tmp_path / "zoo", CONFIG, scripted(Writes(str(mark))))
    assert "whose code runs when it is opened" in one_line(call_command("bundle", "import-model", path, "-o", bundle))
    assert not mark.exists()
    path = folder_with(tmp_path / "zoo", CONFIG)
    done = call_command("bundle", "import-model", path, "--trust", "-o", bundle, "--cell-px", "128")
    assert done.exit_code == 0, done.output
    assert "torchscript, 2 classes, scales 0.5 µm/px, cells of 128 px" in done.output
    shown = call_command("bundle", "show", bundle)
    assert "block_px 64" in shown.output


def test_without_a_description_the_options_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, "m.pt", b"model")
    found = call_command("bundle", "import-model", path, "-o", tmp_path / "b.safetensors")
    assert found.exit_code == 2
    assert "give --classes, --mpps and --input-px; no config.json" in " ".join(found.stderr.split())
    found = call_command("bundle", "import-model", path, "-o", tmp_path / "b.safetensors", "--classes", "a,b")
    assert found.exit_code == 2
    assert "--mpps and --input-px must be given, too" in found.stderr


@pytest.mark.parametrize(
    "changes",
    [{"input_px": None}, {"mpps": (2.0, 1.0)}, {"classifies": False}],
)
def test_descriptions_that_contradict_themselves_are_refused(changes: dict[str, Any]) -> None:
    given: dict[str, Any] = {"classes": ("a", "b"), "mpps": (1.0,), "input_px": 100, "classifies": True}
    with pytest.raises(ConfigError, match="classifier"):
        ModelDescription(**{**given, "resized_px": 80, **changes})
