"""Networks of other packages: what their descriptions must be, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from tests.nets.made import networks_of, small_spec
from tests.networks_package.tiny_networks import INFO, TinyUnet
from tests.planning.test_plan import plan_of
from wsi_magnet.errors import BundleError, WsiMagnetError
from wsi_magnet.geometry import Size
from wsi_magnet.inference.engine import Engine, PatchInput
from wsi_magnet.inference.features import FeatureTap
from wsi_magnet.inference.optimize import inference_form
from wsi_magnet.nets import registry
from wsi_magnet.nets.bundle import load_bundle, save_bundle
from wsi_magnet.nets.network import NetworkInfo, probe
from wsi_magnet.nets.registry import OWN_NETWORKS, build_network, network_info, network_names, package_of
from wsi_magnet.nets.spec import BundleSpec
from wsi_magnet.planning.estimate import _memory
from wsi_magnet.planning.plan import PatchGeometry

PACKAGE = Path(__file__).resolve().parents[1] / "networks_package"
PAGE = PACKAGE.parents[1] / "docs" / "networks.md"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Dist:
    """A package."""

    name: str = "tiny-networks"
    version: str = "0.1"


@dataclass(frozen=True)
class Point:
    """An entry point of another package."""

    loaded: object
    name: str = "tiny-unet"
    value: str = "tiny_networks:INFO"
    dist: Dist = Dist()

    def load(self) -> object:
        """What it names; raises what is an error."""
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Entry points are those that it is called with."""

    def install(*points: Point) -> None:
        monkeypatch.setattr(registry, "entry_points", lambda group: points)

    return install


def tiny_spec(**changes: Any) -> BundleSpec:
    return small_spec(network="tiny-unet", network_package="tiny-networks 0.1", mean=INFO.mean, std=INFO.std, **changes)


@pytest.mark.parametrize("name", OWN_NETWORKS)
def test_our_own_networks_have_the_same_description(name: str) -> None:
    info = network_info(name)
    assert info.name == name
    assert package_of(name) is None
    if info.head is not None:
        with torch.device("meta"):
            assert info.head_of(info.made(3, {})).out_channels == 3


def test_other_packages_bring_networks(install: Callable[..., None]) -> None:
    install(Point(INFO))
    assert network_names() == (*OWN_NETWORKS, "vit:", "timm:", "smp:", "tiny-unet")
    assert isinstance(build_network("tiny-unet", 3, width=4), TinyUnet)
    assert package_of("tiny-unet") == "tiny-networks 0.1"
    assert registry.feature_channels("tiny-unet", width=4) == 4


def test_a_function_brings_as_many_as_it_has_variants(install: Callable[..., None]) -> None:
    def family(variant: str) -> NetworkInfo:
        def build(n_classes: int) -> nn.Module:
            return TinyUnet(n_classes, int(variant))

        return replace(INFO, name=f"unet:{variant}", build=build)

    install(Point(family, "unet"))
    assert build_network("unet:4", 2).classify.in_channels == 4  # type: ignore[union-attr]
    with pytest.raises(BundleError, match="'unet' has variants; name one as unet:VARIANT"):
        network_info("unet")
    install(Point(lambda variant: {}[variant], "unet"))
    with pytest.raises(BundleError, match="has no variant 'five': KeyError: 'five'"):
        network_info("unet:five")


@pytest.mark.parametrize(
    ("points", "name", "said"),
    [
        ([Point("text")], "tiny-unet", r"entry point 'tiny-unet' .*is str, not a wsi_magnet.nets.network.NetworkInfo"),
        ([Point(ImportError("no libfoo"))], "tiny-unet", "cannot be loaded: ImportError: no libfoo"),
        ([Point(INFO), Point(INFO, value="other:INFO")], "tiny-unet", "is an entry point of 2 packages"),
        ([Point(INFO)], "tiny-unet:large", "'tiny-unet' has no variants"),
        ([Point(INFO)], "small:large", "'small' has no variants"),
        (
            [],
            "tiny-unet",
            "is none of fpn, .*must be installed with an entry point 'tiny-unet' of group wsi",
        ),
    ],
)
def test_what_is_no_network_is_refused(install: Callable[..., None], points: list[Point], name: str, said: str) -> None:
    install(*points)
    with pytest.raises(BundleError, match=said):
        network_info(name)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"build": "TinyUnet"}, "build is 'TinyUnet', not a class or function"),
        ({"input_multiple": 0}, "input_multiple is 0, not at least 1"),
        ({"input_multiple": "4"}, "input_multiple is '4', not a whole number"),
        ({"std": (0.2, 0.0, 0.2)}, r"std \[0.2, 0.0, 0.2\] is not positive"),
        ({"mean": (0.2, 0.2)}, "mean has 2 values, not 3"),
        ({"activation_bytes_per_px": 0}, "activation_bytes_per_px is 0, not a whole number of at least 1"),
        ({"trunk": "encoder."}, "trunk is 'encoder.', not a Trunk"),
    ],
)
def test_a_description_that_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        replace(INFO, **changes)


def _hidden_type(n_classes: int, path: Nowhere) -> nn.Module:  # type: ignore[name-defined]  # noqa: F821
    return TinyUnet(n_classes)


def _untyped(n_classes, width=3):  # type: ignore[no-untyped-def]
    return TinyUnet(n_classes, width)


def _any_number(n_classes: int, **rest: int) -> nn.Module:
    return TinyUnet(n_classes, **rest)


def _needing(n_classes: int, width: int) -> nn.Module:
    return TinyUnet(n_classes, width)


def _none() -> nn.Module:
    return TinyUnet(2)


def _text(n_classes: int) -> str:
    return "network"


@pytest.mark.parametrize(
    ("info", "arguments", "said"),
    [
        (INFO, {"depth": 2}, r"takes no 'depth'; its arguments are: width \(a whole number of at least 1\)"),
        (INFO, {"width": 0}, "network_args.width is 0, not a whole number of at least 1"),
        (INFO, {"width": "many"}, "network_args.width is 'many'"),
        (replace(INFO, build=_untyped), {}, "argument width=3 of build has no name or no type"),
        (replace(INFO, build=_hidden_type), {}, "types of build cannot be read: name 'Nowhere' is not defined"),
        (replace(INFO, build=_any_number), {}, r"argument \*\*rest"),
        (replace(INFO, build=_needing), {}, "needs network_args.width"),
        (replace(INFO, build=_none), {}, "must take the number of classes"),
        (replace(INFO, build=cast(Any, _text)), {}, "build made 'network', not a torch.nn.Module"),
        (
            INFO,
            {"width": 2**40},
            r"cannot be built with 2 classes and .*'width': 1099511627776\}: Runtime",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(info: NetworkInfo, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        info.made(2, arguments)


class Half(nn.Module):
    """Logits of half the size."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.last = nn.Conv2d(3, n_classes, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to what it should not be."""
        return self.last(x)  # type: ignore[no-any-return]


class Unsure(Half):
    """NaN."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to what it should not be."""
        return torch.full((len(x), self.last.out_channels, *x.shape[-2:]), float("nan"))


class Two(Half):
    """Two results."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to what it should not be."""
        return (x, x)  # type: ignore[return-value]


class Broken(Half):
    """An error."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to what it should not be."""
        raise KeyError("no such layer")


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (Half, r"'odd' returned \[1, 2, 32, 32\] for \[1, 3, 64, 64\], and must return \[1, 2, 64, 64\]"),
        (Unsure, "returned NaN or infinity"),
        (Two, "returned tuple for"),
        (Broken, r"fails on \[1, 3, 64, 64\]: KeyError: 'no such layer'"),
    ],
)
def test_a_module_is_tried_on_a_patch(build: type[Half], said: str) -> None:
    info = NetworkInfo("odd", build)
    with pytest.raises(BundleError, match=said):
        probe(info, info.made(2, {}), 2, 64)


def test_a_patch_of_another_size_is_padded_and_its_logits_cut() -> None:
    torch.manual_seed(0)
    info = replace(INFO, input_multiple=24)
    network, x = info.made(3, {"width": 2}).eval(), torch.randn(2, 3, 40, 52)
    padded = nn.functional.pad(x, (0, 20, 0, 8), mode="replicate")
    assert torch.equal(info.logits(network, x, 3), network(padded)[..., :40, :52])
    assert info.logits(network, torch.randn(1, 3, 48, 24)).shape == (1, 3, 48, 24)


def test_features_of_a_padded_patch_are_cut_too() -> None:
    torch.manual_seed(0)
    info = replace(INFO, input_multiple=24)
    network = info.made(3, {"width": 2}).eval()
    tap, x = FeatureTap(network, info), torch.randn(1, 3, 64, 64)
    logits = info.logits(network, x, 3)
    assert tap.look(64).shape == (1, 2, 64, 64)
    assert torch.allclose(info.head_of(network)(tap.take(64)), logits)


def test_features_of_an_odd_stride_are_refused() -> None:
    class Third(Half):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.last(nn.functional.avg_pool2d(x, 3))
            return nn.functional.interpolate(logits, size=x.shape[-2:])

    info = NetworkInfo("third", Third, head="last", input_multiple=3)
    network = info.made(2, {})
    tap = FeatureTap(network, info)
    info.logits(network, torch.randn(1, 3, 64, 64))
    with pytest.raises(BundleError, match="features of 22 pixels a side for a patch of 66; their stride must be 1, 2"):
        tap.take(64)
    with pytest.raises(BundleError, match="no layer 'first', its head"):
        replace(info, head="first").head_of(network)


class NormalisedFirst(nn.Module):
    """Pre-activation: `bn1` comes before `conv1`, so that folding by name would change it."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(3)
        self.conv1 = nn.Conv2d(3, 3, 3, padding=1)
        self.classify = nn.Conv2d(3, n_classes, 1)
        nn.init.constant_(self.bn1.running_mean, 2.0)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to what it should not be."""
        return self.classify(self.conv1(self.bn1(x).relu()))  # type: ignore[no-any-return]


class Reversed(nn.Sequential):
    """Parts in another order than they stand."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to what it should not be."""
        for part in reversed(list(self.children())):
            x = part(x)
        return x


def test_normalisation_is_folded_only_where_it_is_known_to_follow() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 16, 16)
    first = NormalisedFirst(2).eval()
    backwards = Reversed(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    nn.init.constant_(cast(Tensor, backwards[1].running_mean), 2.0)
    for network in (first, backwards):
        form = inference_form(network, CPU, torch.float32, folds_by_name=False)
        assert torch.allclose(form(x), network(x), atol=1e-5)
    assert not torch.allclose(inference_form(first, CPU, torch.float32)(x), first(x), atol=1e-2)


def test_a_bundle_of_a_foreign_network_is_loaded_and_computed(install: Callable[..., None], tmp_path: Path) -> None:
    install(Point(INFO))
    spec = tiny_spec(network_args={"width": 3}, cell_px=128)
    path = tmp_path / "b.safetensors"
    save_bundle(path, spec, *networks_of(spec))
    before = torch.random.get_rng_state()
    bundle = load_bundle(path)
    assert torch.equal(before, torch.random.get_rng_state())
    assert bundle.spec == spec
    engine = Engine(bundle, CPU, precision="fp32", batch_size=1)
    image = torch.randint(0, 256, (192, 192, 3), dtype=torch.uint8)
    cell = next(iter(engine.segment([PatchInput(image.numpy(), None)], PatchGeometry(0, 32, 1, 128))))
    x = (image.permute(2, 0, 1)[None] / 255 - 0.7 + torch.tensor([0, 0.1, 0]).view(1, 3, 1, 1)) / 0.2
    with torch.no_grad():
        expected = bundle.backbone(x).softmax(1)[0, :, 32:160, 32:160] * 255
    assert (expected - torch.from_numpy(cell.probabilities)).abs().max() < 0.51


def test_the_plan_reckons_with_the_memory_that_it_states(install: Callable[..., None]) -> None:
    install(Point(replace(INFO, activation_bytes_per_px=70_000)))
    plan = plan_of(Size(4000, 3000))
    patch_px = max(one.layout.patch_px for one in plan.scales)
    own, other = (_memory(plan, name, classes=3, threads=2, batch=1) for name in ("small", "tiny-unet"))
    assert other - own == 2 * patch_px**2 * (70_000 - 500)


def test_a_package_with_another_text_is_refused() -> None:
    with pytest.raises(BundleError, match="network_package 'x; rm -rf 1' is no name and version"):
        replace(tiny_spec(), network_package="x; rm -rf 1")


def test_a_bundle_whose_package_is_missing_names_it(install: Callable[..., None], tmp_path: Path) -> None:
    install(Point(INFO))
    spec, path = tiny_spec(), tmp_path / "b.safetensors"
    save_bundle(path, spec, *networks_of(replace(spec)))
    install()
    with pytest.raises(
        WsiMagnetError,
        match=r"bundle 'tiny': network 'tiny-unet' comes from the package tiny-networks 0\.1, .* entry point "
        "'tiny-unet' of group wsi_magnet.networks; install it: pip install tiny-networks",
    ):
        load_bundle(path)


def test_the_documented_package_is_the_tested_one() -> None:
    text = PAGE.read_text(encoding="utf-8")
    python, toml = (re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)[0] for kind in ("python", "toml"))
    assert python == (PACKAGE / "tiny_networks.py").read_text(encoding="utf-8")
    assert toml == (PACKAGE / "pyproject.toml").read_text(encoding="utf-8")
