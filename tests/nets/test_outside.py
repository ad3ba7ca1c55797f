"""Networks of timm and segmentation_models_pytorch: by name, from local weights, and refused with a cure."""

from __future__ import annotations

import builtins
import socket
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from wsi_magnet.errors import BundleError
from wsi_magnet.nets import outside
from wsi_magnet.nets.encoder import load_encoder
from wsi_magnet.nets.fold import fold_batch_norm
from wsi_magnet.nets.outside import encoder_weights, import_outside
from wsi_magnet.nets.registry import network_info, package_of

MISSING = [name for name in ("timm", "segmentation_models_pytorch", "torchvision") if find_spec(name) is None]
needs_them = pytest.mark.skipif(bool(MISSING), reason=f"not installed (extras timm and smp): {', '.join(MISSING)}")

NETWORKS = ("timm:test_resnet.r160_in1k", "smp:unet/tu-test_resnet", "smp:fpn/resnet18")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here may open a connection."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"a connection was opened: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def built(name: str, n_classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return network_info(name).made(n_classes, {}).eval()


@needs_them
@pytest.mark.parametrize("name", NETWORKS)
def test_they_are_networks_like_others(name: str) -> None:
    info, network, x = network_info(name), built(name), torch.randn(1, 3, 72, 100)
    with torch.inference_mode():
        logits = info.logits(network, x, 3)
        folded = info.logits(fold_batch_norm(network, by_name=info.folds_by_name), x, 3)
    assert logits.shape == (1, 3, 72, 100)
    torch.testing.assert_close(folded, logits, atol=1e-4, rtol=1e-4)
    assert info.head_of(network).out_channels == 3
    assert [type(layer) for layer in info.encoder_of(network)] == [type(network.get_submodule("encoder"))]
    package, _, version = str(package_of(name)).partition(" ")
    assert package in ("timm", "segmentation-models-pytorch")
    assert version[0].isdigit()


@needs_them
def test_a_classifiers_file_fills_the_encoder_and_nothing_else(tmp_path: Path) -> None:
    timm, name = import_outside("timm", "timm"), "timm:test_resnet.r160_in1k"
    torch.manual_seed(5)
    classifier = timm.create_model("test_resnet", pretrained=False).eval()
    path, network = tmp_path / "model.safetensors", built(name)
    safetensors.torch.save_file(classifier.state_dict(), path)
    before = {key: one.clone() for key, one in network.state_dict().items()}
    load_encoder(network, name, path)
    network.eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        wanted = classifier.forward_intermediates(x, intermediates_only=True)[-4:]
        found = network.get_submodule("encoder")(x)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    kept = {key for key in before if not key.startswith("encoder.")}
    assert all(torch.equal(network.state_dict()[key], before[key]) for key in kept)
    assert network_info(name).trunk is not None
    assert str(network_info(name).trunk.licence).startswith("apache-2.0 (test_resnet.r160_in1k")  # type: ignore[union-attr]


@needs_them
def test_torchvisions_file_fills_an_encoder_of_smp(tmp_path: Path) -> None:
    import_outside("segmentation_models_pytorch", "smp")
    torch.manual_seed(6)
    classifier, network = import_module("torchvision.models").resnet18(weights=None), built("smp:fpn/resnet18")
    torch.save(classifier.state_dict(), tmp_path / "resnet18.pth")
    load_encoder(network, "smp:fpn/resnet18", tmp_path / "resnet18.pth")
    own, given = network.get_submodule("encoder").state_dict(), classifier.state_dict()
    assert {key for key in given if key not in own} == {"fc.weight", "fc.bias"}
    assert all(torch.equal(one, given[key]) for key, one in own.items())


@needs_them
@pytest.mark.parametrize("name", NETWORKS[:2])
def test_a_file_of_another_encoder_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.weight": torch.zeros(9)}, path)
    with pytest.raises(BundleError, match=rf"other\.safetensors as the trunk of {name} does not fit"):
        load_encoder(built(name), name, path)


@needs_them
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm", "network 'timm' has variants; name one as timm:VARIANT"),
        ("timm:resnet5", r"'timm:resnet5' is no model of timm [\d.]+; near it: resnet50"),
        ("timm:resnet50.a9_in1k", "has weights that timm .* does not know; near it: .*a2_in1k"),
        ("timm:hf-hub:some/model", "is no model of timm"),
        ("timm:local-dir:/tmp/x", "is no model of timm"),
        ("timm:vit_tiny_patch16_224", r"has features at strides \[16\] alone.*or one of vit:"),
        ("smp:unet", r"names no encoder; write smp:ARCHITECTURE/ENCODER, such as .*: .*deeplabv3.*unetplusplus"),
        ("smp:unett/resnet34", "'unett' is no architecture of smp; near it: unet"),
        ("smp:unet/resnet35", "'resnet35' is no encoder of smp; near it: .*resnet34.*; those of timm are tu-NAME"),
        ("smp:unet/tu-resnet5", "'resnet5' is no model of timm .* near it: resnet50"),
        ("smp:unet/tu-hf-hub:some/model", "is no model of timm"),
        ("smp:unetplusplus/mit_b2", "cannot be built with 3 classes .*mit_b2"),
    ],
)
def test_other_names_are_refused_with_names_that_are_near(name: str, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        network_info(name).made(3, {})


@pytest.mark.parametrize(("name", "module"), [("timm:resnet50", "timm"), ("smp:unet/resnet34", "torchvision")])
def test_without_the_library_the_error_names_the_extra(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(wanted: str) -> Any:
        if wanted == module:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return builtins

    monkeypatch.setattr(outside, "import_module", absent)
    family = name.partition(":")[0]
    with pytest.raises(
        BundleError, match=rf'need {module}, which is not installed: pip install "wsi-magnet\[{family}\]"'
    ):
        network_info(name)


def raising(error: Exception, times: int = 100) -> Callable[[str], Any]:
    """An import that fails the first times."""
    calls = []

    def imported(wanted: str) -> Any:
        calls.append(wanted)
        if len(calls) <= times:
            raise error
        return builtins

    return imported


def test_operators_that_torchvision_describes_are_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    declared: list[tuple[str, str]] = []
    monkeypatch.setattr(torch.library, "define", lambda name, schema: declared.append((name, schema)))
    broken = RuntimeError("operator torchvision::nms does not exist")
    monkeypatch.setattr(outside, "import_module", raising(broken, times=1))
    assert import_outside("timm", "timm") is builtins
    assert declared == [(name, outside.SCHEMA) for name in outside.DECLARED]


def test_a_library_that_is_broken_otherwise_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "import_module", raising(RuntimeError("no such\nsymbol")))
    with pytest.raises(BundleError, match=r"need timm, which cannot be imported \(RuntimeError: no such symbol\)"):
        import_outside("timm", "timm")


def test_layers_that_an_encoder_lacks_are_left_out_and_others_stay() -> None:
    encoder = nn.ModuleDict({"conv": nn.Conv2d(1, 1, 1), "head": nn.Linear(1, 1)})
    given = {
        "conv.weight": torch.ones(1),
        "conv.other": torch.ones(1),
        "fc.weight": torch.ones(1),
        "head.bias": torch.ones(1),
    }
    assert set(encoder_weights(given, encoder)) == {"conv.weight", "conv.other", "head.bias"}
    assert set(encoder_weights(given, encoder, ("head",))) == {"conv.weight", "conv.other"}


class ActivatedNorm(nn.BatchNorm2d):
    """Normalisation that activates as well, as timm's."""

    def forward(self, x: Tensor) -> Tensor:
        """The positive part."""
        return super().forward(x).relu()


def test_normalisation_that_does_more_is_not_folded() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), ActivatedNorm(4)).eval()
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(fold_batch_norm(network)(x), network(x))
