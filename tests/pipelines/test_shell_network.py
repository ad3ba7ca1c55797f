"""SHELL as a network of another package: stains, labels, a run, and its own program where it is installed."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from pipelines.shell_network import compare
from pipelines.shell_network.shell_network import (
    CLASSES,
    INFO,
    MEMBER,
    ShellNet,
    Stains,
    find_glass,
    main,
    make_bundle,
    measure_stains,
    read_weights,
    read_whole,
)
from tests.commands import call_command
from tests.nets.models_made import pointwise
from tests.runs import MadeRun, labels_of, run_serially
from wsi_magnet.config import RunConfig
from wsi_magnet.errors import BundleError
from wsi_magnet.nets import registry
from wsi_magnet.nets.bundle import load_bundle

WHEEL = os.environ.get("WSI_MAGNET_SHELL_WHEEL", "")
DATA = os.environ.get("WSI_MAGNET_TEST_DATA", "")

EOSIN, HAEMATOXYLIN = np.array([0.1, 0.96, 0.26]), np.array([0.62, 0.72, 0.31])


POINT = SimpleNamespace(
    name="shell",
    value="shell_network:INFO",
    dist=SimpleNamespace(name="shell-network", version="0.1"),
    load=lambda: INFO,
)
"""The entry point as importlib.metadata has it."""


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's entry point, as if it was installed."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra onnx)")
    monkeypatch.setattr(registry, "entry_points", lambda group: [POINT])


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel with a network that finds lumen where eosin, and epithelium where haematoxylin is above a quarter."""
    model = pointwise(torch.tensor([[4.0, 0, 0], [0, 4, 0], [0, 0, 0]]), dims=(1, 3, "h", "w"))
    shifted = model.node("Sub", "n0", model.tensor(torch.ones(1, 1, 1, 1)))
    path = tmp_path / "lavlab_shell-0.9.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, model.output(shifted, (1, 3, "h", "w")).content())
        archive.writestr(f"{MEMBER}.data", b"")
    return path


def stained_picture(eosin: npt.NDArray[Any], haematoxylin: npt.NDArray[Any], light: float = 240) -> npt.NDArray[Any]:
    """A picture of concentrations, (H, W) each: uint8 (H, W, 3)."""
    unit = [one / np.linalg.norm(one) for one in (EOSIN, HAEMATOXYLIN)]
    density = eosin[..., None] * unit[0] + haematoxylin[..., None] * unit[1]
    found: npt.NDArray[Any] = np.clip(light * 10**-density, 0, 255).round().astype(np.uint8)
    return found


def picture(side: int = 256) -> npt.NDArray[Any]:
    """Tissue with both stains in all mixtures, and a quarter of glass."""
    generator = np.random.default_rng(0)
    share, amount = generator.random((side, side)), generator.uniform(0.3, 1.2, (side, side))
    share = np.clip(1.4 * share - 0.2, 0, 1)
    amount[: side // 2, : side // 2] = 0
    return stained_picture(amount * share, amount * (1 - share))


def test_stains_are_those_of_the_picture() -> None:
    found = measure_stains(picture())
    assert found.light == pytest.approx(240, abs=1)
    unit = np.array([one / np.linalg.norm(one) for one in (EOSIN, HAEMATOXYLIN)])
    concentrations = found.vectors @ unit.T
    assert np.allclose(concentrations, np.eye(2), atol=0.05)
    assert found.ranges.shape == (3, 2)
    assert (found.ranges[:, 0] < found.ranges[:, 1]).all()


def test_glass_is_bright_pale_and_smooth() -> None:
    glass = find_glass(picture())
    assert glass[10:118, 10:118].all()
    assert not glass[140:].any()


def test_a_picture_without_tissue_has_usual_stains() -> None:
    found = measure_stains(np.full((64, 64, 3), 250, np.uint8))
    assert np.isfinite(found.vectors).all()
    assert found.ranges.tolist() == [[0, 1]] * 3


def test_channels_are_concentrations_within_their_ranges() -> None:
    rgb = picture()
    network = ShellNet(3)
    network.set_stains(measure_stains(rgb))
    x = torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255
    channels = network.stain_channels(x)[0].numpy()
    assert channels.min() == 0
    assert channels.max() == 1
    steps = channels * 255
    assert np.abs(steps - steps.round()).max() < 1e-3, "whole numbers of bytes"
    assert (channels[:, :100, :100] < 0.05).all(), "glass has no stain"
    assert torch.equal(network.stain_channels(torch.ones(1, 3, 4, 4)), torch.zeros(1, 3, 4, 4)), "nor has white"


def rule(lumen: float, epithelium: float, background: float) -> int:
    """The label by the program's description: above a half, above background, and lumen before epithelium."""
    of = [1 / (1 + np.exp(-one)) for one in (lumen, epithelium, background)]
    if of[0] > 0.5 and of[0] > of[2]:
        return 1
    return 2 if of[1] > 0.5 and of[1] > of[2] else 0


def test_the_largest_logit_is_the_programs_label(monkeypatch: pytest.MonkeyPatch) -> None:
    network = ShellNet(3)
    values = torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(network.onnx, "forward", lambda x: values)
    labels = network(torch.zeros(1, 3, 40, 40)).argmax(dim=1)[0]
    expected = np.array([[rule(*values[0, :, y, x].tolist()) for x in range(40)] for y in range(40)])
    assert np.array_equal(labels.numpy(), expected)
    assert len(np.unique(expected)) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_a_slide_is_segmented_the_same_in_other_tiles(demo_slide: Path, wheel: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "b.safetensors"
    spec = make_bundle(demo_slide, wheel, bundle, mpp=0.93, window_px=640)
    assert (spec.network_package, spec.patch_px, spec.mpps) == ("shell-network 0.1", 640, (2.0,))
    masks = []
    for tile_px in (512, 1024):
        config = RunConfig(tile_px=tile_px, tissue=False, precision="fp32", mpp=0.93)
        masks.append(labels_of(run_serially(MadeRun(demo_slide, bundle), tmp_path / f"{tile_px}", config).folder))
    assert np.array_equal(masks[0], masks[1])
    values = {one.name: one.value for one in spec.classes}
    network = load_bundle(bundle).backbone
    rgb = read_whole(demo_slide, 0.93)
    with torch.inference_mode():
        own = network(torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255).argmax(1)[0].numpy()
    height, width = (min(a, b) for a, b in zip(own.shape, masks[0].shape, strict=True))
    known = np.array([values[name] for name in CLASSES])[own[:height, :width]]
    assert len(np.unique(known)) == 3
    assert (known == masks[0][:height, :width]).mean() > 0.95, "read in other rectangles"


@pytest.mark.usefixtures("installed")
def test_the_command_makes_a_bundle(
    demo_slide: Path, wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(demo_slide), "--mpp", "0.93", "--wheel", str(wheel), "-o", str(tmp_path / "b.safetensors")]
    assert main([*given, "--window-px", "1024"]) == 0
    assert "windows of 1024 px at 2 µm/px" in capsys.readouterr().out
    assert "licence: MIT" in call_command("bundle", "show", tmp_path / "b.safetensors").output
    assert main([*given, "--window-px", "1000"]) == 1
    assert "window_px 1000 is no multiple of 64" in capsys.readouterr().err


WHEELS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "text": lambda path: path.write_text("wheel"),
    "another": lambda path: zipfile.ZipFile(path, "w").close(),
}


@pytest.mark.parametrize("name", WHEELS)
def test_other_wheels_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "other.whl"
    WHEELS[name](path)
    with pytest.raises(BundleError, match=r"other\.whl is no wheel of lavlab-shell"):
        read_weights(path)


def test_it_has_its_own_classes() -> None:
    with pytest.raises(BundleError, match="shell has the classes background, lumen, epithelium, not 2"):
        ShellNet(2)


def test_shares_are_printed() -> None:
    own = np.zeros((10, 10), np.uint8)
    here = own.copy()
    here[0, 0] = 2
    assert "equal labels     99.0000% of 100 pixels" in compare.shares(own, here)


# ---- the program itself --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
@pytest.mark.skipif(not (WHEEL and DATA), reason="WSI_MAGNET_SHELL_WHEEL or WSI_MAGNET_TEST_DATA is not set")
def test_labels_are_those_of_its_own_program(tmp_path: Path) -> None:
    pytest.importorskip("shell.inference", reason="lavlab-shell with its dependencies is not installed")
    transforms, inference, model = (import_module(f"shell.{one}") for one in ("transforms", "inference", "model"))
    tile = next(iter(sorted((Path(DATA) / "rings_glands" / "img").glob("*.png"))))
    rgb = read_whole(tile, 0.93)[200:456, 200:456]
    # Windows of 768 pixels round each of four cells hold all of the tile, and white.
    sheet = np.full((1024, 1024, 3), 255, np.uint8)
    sheet[384:640, 384:640] = rgb
    Image.fromarray(sheet).save(tmp_path / "sheet.png")
    own_stains = transforms.estimate_stain_params(sheet)
    found = measure_stains(sheet)
    assert found.light == own_stains["Io"]
    own_vectors = np.linalg.pinv(own_stains["w_est"])[[own_stains["e_idx"], own_stains["h_idx"]]]
    assert np.allclose(found.vectors, own_vectors, atol=1e-3)
    channels = transforms.apply_eho_chunked(sheet, **own_stains)[128:896, 128:896]
    wheel_model = model.build_model(device="cpu")
    lumen, epithelium = inference.run_inference(channels, wheel_model, roi_size=(768, 768), return_raw=True)
    expected = np.where(lumen, 1, np.where(epithelium, 2, 0))[256:512, 256:512]
    bundle = tmp_path / "b.safetensors"
    spec = make_bundle(tmp_path / "sheet.png", Path(WHEEL), bundle, mpp=2.0, window_px=768)
    config = RunConfig(tissue=False, precision="fp32", mpp=2.0)
    mask = labels_of(run_serially(MadeRun(tmp_path / "sheet.png", bundle), tmp_path / "out", config).folder)
    values = np.array([one.value for one in spec.classes])
    assert len(np.unique(expected)) >= 2
    assert (values[expected] == mask[384:640, 384:640]).mean() >= 0.99


def test_stains_are_a_value() -> None:
    network = ShellNet(3)
    network.set_stains(Stains(230.0, np.eye(3)[:2], np.array([[0.0, 1.0]] * 3)))
    assert network.state_dict()["light"].item() == 230
    assert "macenko_pca" not in sys.modules, "its program's library is not needed"
