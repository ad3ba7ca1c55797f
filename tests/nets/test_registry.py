"""Networks by name, and names that are none."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from wsi_magnet.errors import BundleError
from wsi_magnet.nets.registry import OWN_NETWORKS, build_network, build_refiner


@pytest.mark.parametrize("name", OWN_NETWORKS)
def test_every_network_is_built_by_name(name: str) -> None:
    with torch.device("meta"):
        network = build_network(name, 3)
    assert callable(network)


def test_arguments_reach_the_network() -> None:
    image = torch.randn(1, 3, 2, 2)
    assert torch.equal(build_network("identity", 3, gain=4)(image), image * 4)


@pytest.mark.parametrize(
    ("name", "n_classes", "arguments", "said"),
    [
        ("unet", 3, {}, "network 'unet' is none of fpn, psp"),
        ("fpn", 3, {"width": 16}, "takes no 'width'"),
        ("identity", 4, {}, "has 3 classes"),
    ],
)
def test_what_is_not_known_is_refused(name: str, n_classes: int, arguments: dict[str, float], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        build_network(name, n_classes, **arguments)


def test_only_the_network_that_is_asked_for_is_imported() -> None:
    code = "import sys; from wsi_magnet.nets.registry import build_network as b; b('small', 2); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    others = ("fpn", "pspnet", "hrnet", "hrnet_ocr", "exported", "model_file")
    assert "wsi_magnet.nets.small" in loaded
    assert {"onnxruntime", *(f"wsi_magnet.nets.{one}" for one in others)}.isdisjoint(loaded)


def test_an_unknown_refiner_is_refused() -> None:
    with pytest.raises(BundleError, match="unknown refiner 'heavy'"):
        build_refiner("heavy", 3)
