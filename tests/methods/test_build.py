"""Methods made from bundles: weights and parameters there and back, and what a bundle may lack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from wsi_magnet.errors import BundleError
from wsi_magnet.methods import registry
from wsi_magnet.methods.build import build_method, receptive_radius_px, require_methods
from wsi_magnet.methods.method import Method, MethodInfo, Needs, PatchMaps
from wsi_magnet.nets.bundle import build, load_bundle, save_bundle
from wsi_magnet.nets.registry import feature_channels
from wsi_magnet.nets.spec import BundleSpec, ClassInfo, read_spec

WITHOUT_WEIGHTS = (
    r"^bundle '[a-z-]+' has no weights for Mixed\.2; train them: `wsi-magnet train --backbone BUNDLE --heads-only`, "
    r"with `methods: \[Mixed\.2\]` in its --config, or take another method$"
)


class Mixed(Method):
    """A method whose head mixes the classes."""

    info = MethodInfo("Mixed.2", "reimplemented", "none", "none", Needs(features=True, head=True), {"share": 0.5})

    @classmethod
    def build_head(cls, n_classes: int, feature_channels: int) -> nn.Module:
        """A convolution of one pixel."""
        return nn.Conv2d(n_classes + feature_channels, n_classes, 1)

    def refine(self, maps: PatchMaps) -> Tensor:
        """The coarser result."""
        return maps.inner(maps.coarse)


@pytest.fixture
def small_spec(two_class_spec: BundleSpec, monkeypatch: pytest.MonkeyPatch) -> BundleSpec:
    monkeypatch.setitem(registry._OWN, "Mixed.2", (f"{__name__}", "Mixed"))
    monkeypatch.setattr(registry, "import_module", lambda name: __import__(__name__, fromlist=["Mixed"]))
    return two_class_spec


@pytest.fixture
def two_class_spec() -> BundleSpec:
    return replace(read_spec(None)[0], profile=None)


def saved(path: Path, spec: BundleSpec, head: nn.Module | None) -> Path:
    """A bundle of untrained weights."""
    torch.manual_seed(0)
    meta_backbone, meta_refiners = build(spec)
    backbone, refiners = (net.to_empty(device="cpu") for net in (meta_backbone, nn.ModuleList(meta_refiners)))
    for tensor in [*backbone.state_dict().values(), *refiners.state_dict().values()]:
        tensor.zero_()
    parts = list(refiners.children())
    save_bundle(path, spec, backbone, parts, heads={} if head is None else {"Mixed.2": head.state_dict()})
    return path


def test_a_head_and_its_parameters_come_back(small_spec: BundleSpec, tmp_path: Path) -> None:
    spec = replace(small_spec, methods={"Mixed.2": {"share": 0.25}})
    head = Mixed.build_head(len(spec.classes), feature_channels(spec.network, **spec.network_args))
    bundle = load_bundle(saved(tmp_path / "b.safetensors", spec, head))
    method = build_method(bundle, "mixed.2")
    assert method.parameters == {"share": 0.25}
    assert method.head is not None
    assert not method.head.training
    assert all(
        torch.equal(a, b) for a, b in zip(method.head.state_dict().values(), head.state_dict().values(), strict=True)
    )


def test_a_bundle_without_the_head_is_refused(small_spec: BundleSpec, tmp_path: Path) -> None:
    bundle = load_bundle(saved(tmp_path / "b.safetensors", small_spec, None))
    with pytest.raises(BundleError, match=WITHOUT_WEIGHTS):
        build_method(bundle, "Mixed.2")
    with pytest.raises(BundleError, match=WITHOUT_WEIGHTS):
        require_methods(bundle.spec, ["MagNet", "Mixed.2"])


def test_a_head_of_other_classes_is_refused(small_spec: BundleSpec, tmp_path: Path) -> None:
    spec = replace(small_spec, methods={"Mixed.2": {}})
    bundle = load_bundle(saved(tmp_path / "b.safetensors", spec, Mixed.build_head(7, 3)))
    wanted = r": Mixed\.2 does not fit: .*; the bundle has 2 classes: train them: `wsi-magnet train .*\[Mixed\.2\]`"
    with pytest.raises(BundleError, match=wanted):
        build_method(bundle, "Mixed.2")


def test_a_parameter_that_the_method_lacks_is_refused(small_spec: BundleSpec, tmp_path: Path) -> None:
    spec = replace(small_spec, methods={"Mixed.2": {"width": 1}})
    head = Mixed.build_head(len(spec.classes), feature_channels(spec.network, **spec.network_args))
    bundle = load_bundle(saved(tmp_path / "b.safetensors", spec, head))
    with pytest.raises(BundleError, match="has no parameter 'width'; it has share"):
        build_method(bundle, "Mixed.2")


def test_a_network_without_features_is_refused(small_spec: BundleSpec, tmp_path: Path) -> None:
    classes = tuple(ClassInfo(name, i, (0, 0, 0)) for i, name in enumerate("abc"))
    plain = replace(small_spec, network="identity", network_args={}, refiner="identity", classes=classes)
    bundle = load_bundle(saved(tmp_path / "b.safetensors", plain, None))
    with pytest.raises(BundleError, match="needs features of the backbone, and network 'identity' has none"):
        build_method(bundle, "Mixed.2")


def test_a_method_that_needs_context_is_refused_with_one_scale(two_class_spec: BundleSpec) -> None:
    spec = replace(
        two_class_spec,
        mpps=(1.0,),
        temperature=(1.0,),
        refiner_of=(),
        select_above=(),
        refine_above=(),
        methods={"PointRend": {}},
    )
    with pytest.raises(
        BundleError, match=r"PointRend needs a coarser scale, and the bundle has one scale; use a bundle"
    ):
        require_methods(spec, ["PointRend"])


def test_a_receptive_radius_beyond_the_largest_halo_is_refused(two_class_spec: BundleSpec) -> None:
    spec = replace(two_class_spec, methods={"GF": {"radius_um": 128.0}})
    assert receptive_radius_px(spec, "GF", 0.5) == 512
    with pytest.raises(BundleError, match=r"GF with radius_um 128 has a receptive radius of 1024 px at 0\.25 µm/px"):
        receptive_radius_px(spec, "GF", 0.25)


def test_a_bundle_without_methods_has_the_same_bytes_as_before(small_spec: BundleSpec) -> None:
    assert "methods" not in small_spec.to_json()


@pytest.mark.parametrize(("network", "channels"), [("fpn", 512), ("psp", 64), ("hrnet18+ocr", 512), ("identity", 0)])
def test_feature_channels(network: str, channels: int) -> None:
    assert feature_channels(network) == channels
    assert feature_channels("small", width=4) == 12
