"""State dicts from elsewhere: taken where every tensor fits, refused in one line where not, and never run."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from tests.commands import call_command, one_line
from tests.nets.models_made import SAFETENSORS, pickled_command, scripted, written, zipped
from tests.nets.test_import_model import small
from tests.runs import MadeRun, labels_of, run_serially
from tests.slides_made import stained, write_pyramid
from wsi_magnet.config import RunConfig
from wsi_magnet.errors import BundleError, ConfigError
from wsi_magnet.geometry import Size
from wsi_magnet.nets.bundle import load_bundle
from wsi_magnet.nets.import_weights import WeightsDescription, import_weights
from wsi_magnet.nets.spec import read_spec

SMALL: dict[str, Any] = {
    "network": "small",
    "network_args": {"width": 4},
    "classes": ("stroma", "gland", "lumen"),
    "mpps": (1.0,),
}


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def state() -> dict[str, Tensor]:
    return dict(small().state_dict())


WRAPPED: dict[str, Callable[[], bytes]] = {
    "a state dict": lambda: saved(state()),
    "of DataParallel": lambda: saved({f"module.{key}": value for key, value in state().items()}),
    "of a trainer": lambda: saved(
        {"epoch": 3, "state_dict": {f"model.{key}": value for key, value in state().items()}, "loss": 0.5}
    ),
    "in half precision": lambda: saved(
        {key: value.half() if value.is_floating_point() else value for key, value in state().items()}
    ),
    "safetensors": lambda: safetensors.torch.save(state()),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_weights_in_their_usual_wrappings_are_the_networks(tmp_path: Path, name: str) -> None:
    suffix = "safetensors" if name == "safetensors" else "pth"
    path = written(tmp_path, f"weights.{suffix}", WRAPPED[name]())
    spec = import_weights(path, tmp_path / "b.safetensors", WeightsDescription(**SMALL))
    assert (spec.name, spec.network, spec.refiner, spec.n_refiners) == ("weights", "small", "pool", 0)
    found = load_bundle(tmp_path / "b.safetensors").backbone
    x = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        assert torch.allclose(found(x), small()(x), atol=0.05 if name == "in half precision" else 0)


def test_a_slide_is_segmented_by_commands_alone(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "mine.pth")
    bundle = tmp_path / "b.safetensors"
    done = call_command(
        "bundle", "import-weights", tmp_path / "mine.pth", "--network", "small", "--network-arg", "width=4",
        "--classes", "stroma,gland,lumen", "--mpps", "2,1", "--cell-px", "128", "-o", bundle,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "small, 3 classes, scales 2, 1 µm/px, cells of 128 px" in done.output
    slide = write_pyramid(tmp_path / "s.tif", stained(Size(500, 300)), mpp=1.0)
    masks = [
        labels_of(run_serially(MadeRun(slide, bundle), tmp_path / f"{tile_px}", RunConfig(tile_px=tile_px)).folder)
        for tile_px in (512, 1024)
    ]
    assert np.array_equal(masks[0], masks[1])
    assert len(np.unique(masks[0])) >= 2


def test_patches_and_normalisation_of_the_training_are_kept(tmp_path: Path) -> None:
    path = written(tmp_path, "w.pth", saved(state()))
    done = call_command(
        "bundle", "import-weights", path, "--network", "small", "--network-arg", "width=4", "--classes", "a,b,c",
        "--mpps", "0.5", "--input-px", "320", "--mean", "0.5", "--std", "0.1,0.2,0.3", "-o", tmp_path / "b.safetensors",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    spec, _ = read_spec(tmp_path / "b.safetensors")
    assert (spec.patch_px, spec.cell_px, spec.mean, spec.std) == (320, 128, (0.5,) * 3, (0.1, 0.2, 0.3))


def _changed(key: str, value: Tensor | None) -> Callable[[], bytes]:
    def make() -> bytes:
        found = state()
        if value is None:
            del found[key]
        else:
            found[key] = value
        return saved(found)

    return make


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "is not a PyTorch checkpoint, or is truncated"),
    "text": (lambda: b"weights", "is not a PyTorch checkpoint, or is truncated"),
    "a pickle of code": (lambda: pickled_command("touch HOSTILE"), "not a PyTorch checkpoint|contains code"),
    "an archive of code": (
        lambda: zipped({"w/data.pkl": pickled_command("touch HOSTILE"), "w/version": b"3"}),
        "not a PyTorch checkpoint|contains code",
    ),
    "a whole module": (lambda: saved(small()), "contains code, not only tensors; it is not read"),
    "TorchScript": (lambda: scripted(torch.nn.Identity()), "is not a PyTorch checkpoint, or is truncated"),
    "half of it": (lambda: saved(state())[:-3000], "is not a PyTorch checkpoint, or is truncated"),
    "a tensor": (lambda: saved(torch.zeros(3)), "has no named tensors but Tensor"),
    "a list": (lambda: saved([torch.zeros(3)]), "has no named tensors but list"),
    "an empty dict": (lambda: saved({}), "has no named tensors"),
    "numbers": (lambda: saved({"lr": 0.1}), "'lr' is float, not a tensor"),
    "one tensor less": (_changed("classify.bias", None), "1 of .* tensors missing, the first 'classify.bias'"),
    "one tensor more": (_changed("extra", torch.zeros(1)), "1 tensors unexpected, the first 'extra'"),
    "four classes": (_changed("classify.bias", torch.zeros(4)), r"'classify.bias' is \[4\], not \[3\]"),
    "whole numbers": (_changed("classify.bias", torch.zeros(3, dtype=torch.int64)), "is torch.int64, not torch.float"),
    "not a number": (_changed("classify.bias", torch.full((3,), float("nan"))), "'classify.bias' holds NaN"),
}
"""Files and the reason for which they are refused."""


@pytest.mark.parametrize("name", FILES)
def test_broken_and_hostile_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    make, said = FILES[name]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = written(tmp_path, "weights.pth", make())
    monkeypatch.chdir(elsewhere)
    with pytest.raises(BundleError, match=said):
        import_weights(path, tmp_path / "b.safetensors", WeightsDescription(**SMALL))
    assert not (tmp_path / "b.safetensors").exists()
    assert not list(elsewhere.iterdir()), "no code ran"


@pytest.mark.parametrize("content", [SAFETENSORS[:4], b"\xff" * 100, SAFETENSORS])
def test_broken_safetensors_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BundleError, match=r"weights\.safetensors"):
        import_weights(
            written(tmp_path, "weights.safetensors", content), tmp_path / "b.safetensors", WeightsDescription(**SMALL)
        )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network": "unet"}, "network 'unet' is none of"),
        ({"network": "exported"}, "takes no state dict; it comes from import-model"),
        ({"network_args": {"depth": 4}}, "takes no 'depth'"),
        ({"network_args": {"width": 8}}, r"does not fit: tensor '.*' is \[\d+.*, not \["),
        ({"classes": ("a", "a", "b")}, "empty or repeated"),
        ({"classes": ("a", "b")}, r"is \[3.*\], not \[2"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = written(tmp_path, "weights.pth", saved(state()))
    with pytest.raises(BundleError, match=said):
        import_weights(path, tmp_path / "b.safetensors", WeightsDescription(**{**SMALL, **changes}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"std": (1.0, 0.0, 1.0)}, "is not positive"),
        ({"cell_px": 100}, "cell_px 100 is not 128, 256 or 512"),
        ({"mpps": (2.0, 1.5)}, "mpps|scale"),
    ],
)
def test_values_that_are_not_allowed_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        WeightsDescription(**{**SMALL, **changes})


def test_options_that_cannot_be_are_a_usage_error(tmp_path: Path) -> None:
    given = ("bundle", "import-weights", tmp_path / "w.pth", "--classes", "a,b", "--mpps", "1", "-o", tmp_path / "b.s")
    found = call_command(*given, "--network", "small", "--network-arg", "width")
    assert found.exit_code == 2
    assert "--network-arg 'width': give NAME=VALUE" in found.stderr
    assert "w.pth: No such file" in one_line(call_command(*given, "--network", "small"))
