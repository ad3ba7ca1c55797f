"""Models that somebody exported: imported where they do what is stated, and refused with the numbers where not."""

from __future__ import annotations

import hashlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.few import slow_except
from tests.nets.models_made import (
    HDF5,
    SAFETENSORS,
    UINT8,
    Chance,
    Double,
    Flattens,
    Named,
    OneSize,
    Onnx,
    Pair,
    Raises,
    Writes,
    exported,
    message,
    number,
    pickled_command,
    pointwise,
    scripted,
    shaped,
    small_as_onnx,
    text,
    traced,
    written,
    zipped,
)
from wsi_magnet.errors import BundleError, ConfigError, WsiMagnetError
from wsi_magnet.nets.bundle import load_bundle, save_bundle
from wsi_magnet.nets.exported import ExportedNet
from wsi_magnet.nets.import_model import ModelDescription, import_model, scaled_to
from wsi_magnet.nets.registry import build_network
from wsi_magnet.nets.small import SmallNet
from wsi_magnet.nets.spec import read_spec
from wsi_magnet.nets.trust import running_model, trust, trust_file, trusted_hashes
from wsi_magnet.slides.registry import open_slide

FORMS = ("onnx", "torchscript", "pt2")
THREE = ModelDescription(classes=("stroma", "gland", "lumen"), mpps=(1.0,), input_multiple=32)
EYE = torch.eye(3)


@pytest.fixture(autouse=True)
def own_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of trusted models that is the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def onnx() -> None:
    """Skips where ONNX cannot be computed."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra onnx)")


def small(n_classes: int = 3) -> SmallNet:
    torch.manual_seed(0)
    network = build_network("small", n_classes, width=4)
    assert isinstance(network, SmallNet)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    with torch.inference_mode():  # no class is to be everywhere
        mean = network.eval()(torch.randn(1, 3, 128, 128)).mean(dim=(0, 2, 3))
    with torch.no_grad():
        assert network.classify.bias is not None
        network.classify.bias -= mean
    return network


def content_of(form: str, network: SmallNet) -> bytes:
    """The network in a form."""
    if form == "onnx":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra onnx)")
        return small_as_onnx(network)
    return traced(network) if form == "torchscript" else exported(network)


def imported(folder: Path, content: bytes, described: ModelDescription = THREE, name: str = "model.bin") -> Path:
    """The bundle of a trusted file."""
    path = folder / "imported.safetensors"
    import_model(written(folder, name, content), path, described, trusted=True, overwrite=True)
    return path


@pytest.mark.parametrize("form", slow_except(["onnx", "torchscript"], FORMS))
def test_labels_of_real_tissue_are_those_of_the_network(demo_slide: Path, tmp_path: Path, form: str) -> None:
    shipped = load_bundle()
    network, spec = shipped.backbone, shipped.spec
    assert isinstance(network, SmallNet)
    described = replace(THREE, classes=tuple(one.name for one in spec.classes), mean=spec.mean, std=spec.std)
    found = load_bundle(imported(tmp_path, content_of(form, network), described))
    assert found.spec.network_args["form"] == form
    with open_slide(demo_slide, mpp=0.93) as slide:
        pixels = slide.read((300, 300, 768, 512), mpp=1.0)
    height, width = (side // 32 * 32 for side in pixels.shape[:2])
    x = torch.from_numpy(np.array(pixels[:height, :width])).permute(2, 0, 1)[None] / 255
    x = (x - torch.tensor(spec.mean).view(1, 3, 1, 1)) / torch.tensor(spec.std).view(1, 3, 1, 1)
    with torch.inference_mode():
        own, other = network(x).argmax(1), found.backbone(x).argmax(1)
    assert len(own.unique()) == len(spec.classes)
    assert (own == other).double().mean() >= 0.9999


@pytest.mark.parametrize("form", slow_except(["onnx", "torchscript"], FORMS))
def test_a_patch_of_any_size_and_batch_is_computed(tmp_path: Path, form: str) -> None:
    network = small()
    found = load_bundle(imported(tmp_path, content_of(form, network))).backbone
    x = torch.randn(2, 3, 80, 112)
    with torch.inference_mode():
        logits = found(x)
        padded = nn.functional.pad(x, (0, 16, 0, 16), mode="replicate")
        assert torch.allclose(logits, network(padded)[..., :80, :112], atol=1e-4)
        assert torch.equal(logits[1:], found(x[1:])), "a patch does not depend on its batch"
        assert torch.equal(logits, found(x)), "nor on how often the model was called"


@dataclass(frozen=True)
class Case:
    """A model, a description, and the labels of pure colours: of red, green and blue pixels."""

    content: Callable[[], bytes]
    changes: dict[str, Any]
    labels: tuple[int, int, int] = (0, 1, 2)


def colours(layout: str = "nchw") -> Tensor:
    """Red, green and blue thirds, float (1, 3, 192, 192)."""
    x = torch.zeros(1, 3, 192, 192)
    for channel in range(3):
        x[0, channel, :, 64 * channel : 64 * channel + 64] = 1
    return x


def as_nhwc() -> bytes:
    model = Onnx(inputs=[shaped(11, "x", (1, "h", "w", 3))])
    moved = model.node("Transpose", "x", perm=[0, 3, 1, 2])
    back = model.node("Transpose", moved, perm=[0, 2, 3, 1])
    return model.output(back, (1, "h", "w", 3)).content()


def strided() -> bytes:
    model = Onnx()
    pooled = model.node("AveragePool", "x", kernel_shape=[4, 4], strides=[4, 4])
    return model.output(pooled, (1, 3, "h4", "w4")).content()


PLAIN: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "input_multiple": 1}
CASES = {
    "logits": Case(lambda: pointwise(EYE).output("n0", (1, 3, "h", "w")).content(), {}),
    "softmax": Case(
        lambda: pointwise(EYE, end="Softmax").output("n1", (1, 3, "h", "w")).content(), {"activation": "softmax"}
    ),
    "sigmoid": Case(
        lambda: pointwise(EYE, end="Sigmoid").output("n1", (1, 3, "h", "w")).content(), {"activation": "sigmoid"}
    ),
    "one channel": Case(
        lambda: pointwise(torch.tensor([[9.0, -9, -9]]), end="Sigmoid").output("n1", (1, 1, "h", "w")).content(),
        {"activation": "sigmoid", "classes": ("stroma", "gland")},
        (1, 0, 0),
    ),
    "one channel of logits": Case(
        lambda: pointwise(torch.tensor([[9.0, -9, -9]])).output("n0", (1, 1, "h", "w")).content(),
        {"classes": ("stroma", "gland")},
        (1, 0, 0),
    ),
    "BGR": Case(lambda: pointwise(EYE).output("n0", (1, 3, "h", "w")).content(), {"colours": "bgr"}, (2, 1, 0)),
    "NHWC": Case(as_nhwc, {"layout": "nhwc"}),
    "output stride": Case(strided, {"output_stride": 4}),
}


@pytest.mark.usefixtures("onnx")
@pytest.mark.parametrize("name", CASES)
def test_what_is_stated_is_done(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    described = replace(THREE, **{**PLAIN, **case.changes})
    network = load_bundle(imported(tmp_path, case.content(), described)).backbone
    with torch.inference_mode():
        logits = network(colours())
    labels = logits.argmax(dim=1)[0, 96]
    assert tuple(labels[[32, 96, 160]].tolist()) == case.labels
    if name == "softmax":
        assert torch.allclose(logits.softmax(1), colours().softmax(1), atol=1e-6)


def test_a_dict_with_one_map_is_taken(tmp_path: Path) -> None:
    network = load_bundle(imported(tmp_path, scripted(Named()), replace(THREE, input_multiple=1))).backbone
    x = torch.randn(1, 3, 20, 20)
    assert torch.equal(network(x), x)


def test_values_of_black_and_white_are_a_mean_and_a_deviation() -> None:
    for low, high in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        found = scaled_to(low, high).of(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1).clone())
        assert torch.allclose(found[:, 0, 0, 0], torch.tensor([low, high]), atol=1e-4)
    with pytest.raises(ConfigError, match="scale_to 1,1 is no range"):
        scaled_to(1, 1)


@pytest.mark.usefixtures("onnx")
def test_weights_beside_an_onnx_file_come_into_the_bundle(tmp_path: Path) -> None:
    weights = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])
    (tmp_path / "model.data").write_bytes(bytes(4) + weights.numpy().tobytes())
    described = replace(THREE, **PLAIN)
    bundle = imported(tmp_path, outside("model.data"), described)
    (tmp_path / "model.data").unlink()
    network = load_bundle(bundle).backbone
    labels = network(colours()).argmax(dim=1)[0, 96]
    assert tuple(labels[[32, 96, 160]].tolist()) == (2, 0, 1)
    same = imported(tmp_path, pointwise(weights).output("n0", (1, 3, "h", "w")).content(), described)
    assert torch.equal(load_bundle(same).backbone(colours()), network(colours()))


@pytest.mark.usefixtures("onnx")
def test_files_of_pytorchs_own_exporter_are_taken(tmp_path: Path) -> None:
    for library in ("onnx", "onnxscript"):
        pytest.importorskip(library, reason=f"{library}, which writes ONNX files, is not installed")
    network, x = small(), torch.randn(1, 3, 256, 256)
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(network, (x,), tmp_path / "m.onnx", dynamo=True, external_data=True, verbose=False)
    assert (tmp_path / "m.onnx.data").exists()
    bundle = tmp_path / "b.safetensors"
    import_model(tmp_path / "m.onnx", bundle, replace(THREE, input_px=256))
    assert torch.allclose(load_bundle(bundle).backbone(x), network(x), atol=1e-4)


# ---- one size only ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "mpps", "cell"),
    [
        (160, (1.0,), 128),
        (224, (1.0,), 128),
        (256, (1.0,), 128),
        (512, (1.0,), 256),
        (768, (1.0,), 512),
        (1000, (1.0,), 512),
        (1024, (2.0, 1.0), 512),
        (224, (4.0, 2.0, 1.0), 128),
    ],
)
def test_cells_are_chosen_that_fit_the_patch(tmp_path: Path, side: int, mpps: tuple[float, ...], cell: int) -> None:
    described = replace(THREE, mpps=mpps, input_px=side)
    spec, _ = read_spec(imported(tmp_path, scripted(nn.Identity()), described))
    assert (spec.patch_px, spec.cell_px, spec.network_args["margin_px"]) == (side, cell, (side - cell) // 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input_px": 96}, "patches of 96 pixels leave -16 round a cell of 128, .* the nearest that fit: 160"),
        ({"input_px": 299}, "leave 85.5 round a cell of 128, no whole number; the nearest that fit: 298 and 300"),
        (
            {"input_px": 230, "mpps": (4.0, 2.0, 1.0)},
            "no multiple of 4; the nearest that fit: 224 and 232",
        ),
        ({"input_px": 512, "cell_px": 512}, "patches of 512 pixels leave 0 round a cell of 512"),
        ({"input_px": 250, "output_stride": 4}, "input_px 250 is no multiple of the output stride, 4"),
        ({"cell_px": 100}, "cell_px 100 is not 128, 256 or 512"),
        ({"std": (1.0, 0.0, 1.0)}, r"std \[1.0, 0.0, 1.0\] is not positive"),
        ({"mpps": (1.0, 0.7)}, "scales must halve"),
        ({"classes": ("a", "a")}, "must not be empty or repeated"),
        ({"classes": ("a",)}, "1 classes; there must be at least 2"),
        ({"activation": "tanh"}, "activation is 'tanh'"),
        ({"input_px": 8192}, "input_px is 8192"),
    ],
)
def test_descriptions_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(WsiMagnetError, match=said):
        imported(tmp_path, scripted(nn.Identity()), replace(THREE, **changes))
    assert not list(tmp_path.glob("*.safetensors"))


def test_larger_patches_are_computed_in_windows(tmp_path: Path) -> None:
    """Position as value: with a window's own coordinates subtracted, each pixel says from where its window began."""

    class Blurred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.avg_pool2d(nn.functional.pad(x, (16, 16, 16, 16)), 33, stride=1)

    described = replace(THREE, input_px=160, input_multiple=1)
    network = load_bundle(imported(tmp_path, traced(Blurred(), 160), described)).backbone
    x = torch.randn(1, 3, 300, 410)
    with torch.inference_mode():
        found, dense = network(x), Blurred()(x)
    assert found.shape == dense.shape
    assert torch.allclose(found, dense, atol=1e-4), "windows leave 16 pixels to their neighbours, as far as it sees"
    small_patch = torch.randn(1, 3, 100, 160)
    assert network(small_patch).shape == small_patch.shape
    assert network(torch.randn(1, 3, 160, 160)).shape == (1, 3, 160, 160)


# ---- files that are refused ------------------------------------------------------------------------------------------


def outside(name: str, length: int = 36) -> bytes:
    """A model that keeps its first tensor, 3 x 3, in another file."""
    model = pointwise(EYE).output("n0", (1, 3, "h", "w"))
    entries = {"location": name, "offset": "4", "length": str(length)}
    where = [message(13, text(1, key), text(2, value)) for key, value in entries.items()]
    dims = [number(1, one) for one in (3, 3, 1, 1)]
    model.tensors[0] = message(5, *dims, number(2, 1), text(8, "t0"), *where, number(14, 1))
    return model.content()


def _two_inputs() -> bytes:
    model = pointwise(EYE).output("n0", (1, 3, "h", "w"))
    model.inputs.append(shaped(11, "size", (2,)))
    return model.content()


def _two_outputs() -> bytes:
    return pointwise(EYE, end="Relu").output("n0", (1, 3, "h", "w")).output("n1", (1, 3, "h", "w")).content()


def _unknown_operator() -> bytes:
    model = Onnx()
    model.node("Conjure", "x", domain="org.nobody")
    return model.output("n0", (1, 3, "h", "w")).content()


def _state_dict() -> bytes:
    buffer = io.BytesIO()
    torch.save(nn.Conv2d(3, 3, 1).state_dict(), buffer)
    return buffer.getvalue()


def _half() -> bytes:
    return scripted(nn.Conv2d(3, 3, 1).half())


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "is empty"),
    "text": (lambda: b"my best model, promise", "is none of these, or is damaged; give a model as torch.export"),
    "noise": (lambda: np.random.default_rng(0).bytes(5000), "is none of these, or is damaged"),
    "zeros": (lambda: bytes(5000), "is none of these, or is damaged"),
    "hdf5": (lambda: HDF5, "is a Keras or HDF5 file"),
    "safetensors": (lambda: SAFETENSORS, "is none of these, or is damaged"),
    "pickle": (lambda: pickled_command("touch HOSTILE"), "is a pickle"),
    "checkpoint": (_state_dict, "is a checkpoint, weights without their network"),
    "archive": (lambda: zipped({"readme.txt": b"hello"}), "is another archive"),
    "half a TorchScript": (lambda: scripted(nn.Identity())[:-200], "is none of these, or is damaged"),
    "TorchScript without code": (
        lambda: zipped({"m/constants.pkl": b"", "m/code/a.py": b"", "m/data.pkl": b""}),
        "the model cannot be opened: RuntimeError",
    ),
    "pt2 without a program": (lambda: zipped({"m/archive_format": b"pt2"}), "the model cannot be opened: "),
    "pt2 with a pickle": (
        lambda: zipped(
            {
                "m/archive_format": b"pt2",
                "m/archive_version": b"0",
                "m/models/model.json": b"{}",
                "m/data/sample_inputs/model.pt": pickled_command("touch HOSTILE"),
            }
        ),
        "the model cannot be opened: ",
    ),
    "two maps": (lambda: scripted(Pair()), r"returned 2 outputs, float32 \[1, 3, 192, 192\] and float32 \[1, 3, 192"),
    "a vector": (
        lambda: scripted(Flattens()),
        r"returned float32 \[1, 3\] for a patch of \[1, 3, 192, 192\]; with 3 cl",
    ),
    "float64": (
        lambda: scripted(Double()),
        r"returned float64 \[1, 3, 192, 192\] .* must be float32 \[1, 3, 192, 192\]",
    ),
    "float16": (_half, r"fails on a patch of \[1, 3, 192, 192\]: "),
    "an error": (lambda: scripted(Raises()), r"fails on a patch of \[1, 3, 192, 192\]: .*"),
    "chance": (lambda: scripted(Chance()), "something else for the same patch a second time; export it in evaluation"),
    "one size": (
        lambda: traced(OneSize(nn.Identity()), 192),
        r"takes patches of 192 x 192 pixels and not of 224 x 224, so not of any multiple of 32",
    ),
}
"""Files and the reason for which they are refused, with --trust."""

ONNX_FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "half an ONNX": (lambda: small_as_onnx(small())[:-5000], "is none of these, or is damaged"),
    "weights elsewhere": (
        lambda: outside("../../etc/passwd"),
        "keeps weights in '../../etc/passwd', not in a file besi",
    ),
    "weights in a device": (lambda: outside("/dev/zero"), "keeps weights in '/dev/zero', not in a file beside it"),
    "weights missing": (
        lambda: outside("model.data"),
        "keeps weights in model.data, which must lie beside it: No such",
    ),
    "weights cut off": (lambda: outside("model.bin", 10**6), r"model.bin has [\d,]+ of 1,000,000 bytes of a tensor"),
    "two inputs": (_two_inputs, r"takes 2 inputs \(x, size\), not one"),
    "two outputs": (_two_outputs, r"returned 2 outputs, float32 \[1, 3, 192, 192\] and"),
    "uint8": (
        lambda: Onnx(inputs=[shaped(11, "x", (1, 3, "h", "w"), UINT8)]).output("x", (1, 3, "h", "w"), UINT8).content(),
        r"takes tensor\(uint8\), not tensor\(float\)",
    ),
    "an unknown operator": (_unknown_operator, "the model cannot be opened: "),
    "four classes": (
        lambda: pointwise(torch.ones(4, 3)).output("n0", (1, 4, "h", "w")).content(),
        r"returned float32 \[1, 4, 192, 192\] .* with 3 classes and an output stride of 1 that must be .* \[1, 3, 192",
    ),
    "a stride": (strided, r"returned float32 \[1, 3, 48, 48\] .* an output stride of 1 that must be"),
    "not a number": (
        lambda: pointwise(torch.full((3, 3), float("nan"))).output("n0", (1, 3, "h", "w")).content(),
        "returned NaN or infinity in 110,592 of 110,592 values",
    ),
    "softmax as logits": (
        lambda: pointwise(EYE, end="Softmax").output("n1", (1, 3, "h", "w")).content(),
        "add up to 1 at every pixel: the activation is softmax, not logits",
    ),
    "another size": (
        lambda: pointwise(EYE, dims=(1, 3, 256, 256)).output("n0", (1, 3, 256, 256)).content(),
        r"the model takes \[1, 3, 256, 256\] and not \[1, 3, 192, 192\]",
    ),
}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder, in which no hostile file may have appeared."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert not list(folder.iterdir())


def _refused(folder: Path, content: bytes, said: str, *, trusted: bool) -> None:
    path = written(folder, "model.bin", content)
    with pytest.raises(BundleError, match=said):
        import_model(path, folder / "b.safetensors", THREE, trusted=trusted)
    assert not (folder / "b.safetensors").exists()
    assert not trusted_hashes(), "a model is trusted once it was imported"


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("name", FILES)
def test_broken_and_hostile_files_are_refused(tmp_path: Path, name: str) -> None:
    make, said = FILES[name]
    content = make()
    with pytest.raises(BundleError):
        import_model(written(tmp_path, "model.bin", content), tmp_path / "b.safetensors", THREE)
    if name != "pt2 with a pickle":  # trusted, its code may run
        _refused(tmp_path, content, said, trusted=True)


@pytest.mark.usefixtures("elsewhere", "onnx")
@pytest.mark.parametrize("name", ONNX_FILES)
def test_broken_and_hostile_onnx_files_are_refused(tmp_path: Path, name: str) -> None:
    make, said = ONNX_FILES[name]
    _refused(tmp_path, make(), said, trusted=False)


def test_without_onnxruntime_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    _refused(tmp_path, small_as_onnx(small()), r'install it: pip install "wsi-magnet\[onnx\]"', trusted=False)


@pytest.mark.parametrize(
    ("activation", "said"),
    [("softmax", "no probabilities of 3 classes: the activation is not softmax"), ("sigmoid", "is not sigmoid")],
)
def test_an_activation_that_cannot_be_is_refused(tmp_path: Path, activation: Any, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        imported(tmp_path, scripted(nn.Identity()), replace(THREE, activation=activation))


# ---- trust -----------------------------------------------------------------------------------------------------------


def test_no_code_runs_before_it_is_trusted(tmp_path: Path) -> None:
    mark = tmp_path / "written"
    path, bundle = written(tmp_path, "model.pt", scripted(Writes(str(mark)))), tmp_path / "b.safetensors"
    with pytest.raises(BundleError, match=r"is a TorchScript program, whose code runs .* nothing was opened.*--trust"):
        import_model(path, bundle, THREE)
    assert not mark.exists()
    spec = import_model(path, bundle, THREE, trusted=True)
    assert mark.exists(), "the test's code does run"
    mark.unlink()
    sha256 = running_model(spec)
    assert sha256 is not None
    assert list(trusted_hashes()) == [sha256]
    load_bundle(bundle)
    trust(sha256, "", forget=True)
    for given in (None, "0" * 64):
        with pytest.raises(BundleError, match=rf"whose code would run here; .* bundle trust .*{sha256}"):
            load_bundle(bundle, trusted=given)
    assert not mark.exists()
    assert load_bundle(bundle, trusted=sha256).spec == spec
    trust(sha256, "again, of\nmine")
    assert trusted_hashes() == {sha256: "again, of mine"}
    load_bundle(bundle)
    assert not mark.exists(), "it is opened when a patch is computed"


def test_trust_is_in_bytes_and_not_in_what_a_bundle_says(tmp_path: Path) -> None:
    good = imported(tmp_path, scripted(nn.Identity()))
    mark = tmp_path / "written"
    spec, _ = read_spec(good)
    hostile = scripted(Writes(str(mark)))
    args = {**spec.network_args, "size_bytes": len(hostile)}
    network = ExportedNet(3, **args)  # type: ignore[arg-type]
    network.model = torch.frombuffer(bytearray(hostile), dtype=torch.uint8)
    save_bundle(tmp_path / "other.safetensors", replace(spec, network_args=args), network, [])
    with pytest.raises(BundleError, match=r"its model has SHA-256 .*, not .* as its description says"):
        load_bundle(tmp_path / "other.safetensors")
    onnx = replace(spec, network_args={**args, "form": "onnx", "sha256": hashlib.sha256(hostile).hexdigest()})
    save_bundle(tmp_path / "disguised.safetensors", onnx, network, [])
    with pytest.raises(BundleError, match=r"the model cannot be opened|onnxruntime"):
        load_bundle(tmp_path / "disguised.safetensors").backbone(torch.zeros(1, 3, 192, 192))
    assert not mark.exists()


def test_a_list_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    trust_file().mkdir(parents=True)
    with pytest.raises(BundleError, match=r"list of trusted models, .*, cannot be read"):
        trusted_hashes()
