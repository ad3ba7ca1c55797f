"""The protocol: parameters, heads, and the place of a patch in its context."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.methods.made import made_method
from wsi_magnet.config import RunConfig
from wsi_magnet.errors import BundleError, ConfigError
from wsi_magnet.methods import registry
from wsi_magnet.methods.method import Context, Method, MethodInfo, Needs, PatchMaps
from wsi_magnet.methods.registry import FAST, course_of, method_class, method_names, settled


class Keep(Method):
    """A method that keeps the coarser result and needs a head."""

    info = MethodInfo("Keep", "reimplemented", "none", "none", Needs(head=True), {"radius_um": 4.0})

    def refine(self, maps: PatchMaps) -> Tensor:
        """The coarser result."""
        return maps.inner(maps.coarse)


def test_parameters_have_defaults_and_unknown_ones_are_refused() -> None:
    head = torch.nn.Identity()
    assert Keep(2, {}, head).parameters == {"radius_um": 4.0}
    assert Keep(2, {"radius_um": 1.0}, head).parameters == {"radius_um": 1.0}
    with pytest.raises(ConfigError, match="Keep has no parameter 'width'; it has radius_um"):
        Keep(2, {"width": 1}, head)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_parameter_is_a_number_above_0(value: float) -> None:
    with pytest.raises(ConfigError, match=r"Keep: parameter radius_um is .*, not a number above 0"):
        Keep(2, {"radius_um": value}, torch.nn.Identity())


def test_a_weight_may_be_0_and_not_negative() -> None:
    class Weighed(Keep):
        """One with a weight."""

        info = MethodInfo("Weighed", "reimplemented", "none", "none", Needs(), {"w": 1.0})

    assert Weighed(2, {"w": 0.0}).parameters == {"w": 0.0}
    with pytest.raises(ConfigError, match=r"Weighed: parameter w is -1, not a number from 0 on"):
        Weighed(2, {"w": -1.0})


@pytest.mark.parametrize(("name", "key", "most"), [("PointRend", "share", 1), ("DenseCRF", "iterations", 1000)])
def test_a_parameter_has_a_greatest_value(name: str, key: str, most: float) -> None:
    assert made_method(name, parameters={key: most}).parameters[key] == most
    with pytest.raises(ConfigError, match=f"{name}: parameter {key} is {most + 1}, .*, at most {most}"):
        made_method(name, parameters={key: most + 1})
    with pytest.raises(ConfigError, match=r"GF: parameter epsilon is 1e\+300, .*, at most 1e\+09"):
        made_method("GF", parameters={"epsilon": 1e300})


def test_a_missing_head_is_refused_with_the_cure() -> None:
    with pytest.raises(BundleError, match=r"no weights for Keep; train them with `methods: \[Keep\]`"):
        Keep(2)


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="method is 'nobody', none of"):
        method_class("nobody")


@dataclass(frozen=True)
class Point:
    """An entry point of another package."""

    loaded: object
    name: str = "Mine"
    value: str = "package:Mine"

    def load(self) -> object:
        """What it names; raises ModuleNotFoundError where it names an error."""
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


def test_other_packages_bring_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point(Keep)])
    assert method_class("mine") is Keep
    assert "Mine" in method_names()
    assert course_of("MINE").name == "Mine"


@pytest.mark.parametrize(
    ("loaded", "text"),
    [
        ("text", r"entry point 'Mine' .*package:Mine\) is not a subclass of"),
        (ModuleNotFoundError("No module named 'package'"), "cannot be loaded: ModuleNotFoundError: No module"),
    ],
)
def test_what_is_no_method_is_refused(monkeypatch: pytest.MonkeyPatch, loaded: object, text: str) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point(loaded)])
    with pytest.raises(ConfigError, match=text):
        method_class("mine")


def test_a_configuration_is_settled_for_its_method() -> None:
    fast = settled(RunConfig(method="magnet-fast"))
    assert (fast.method, fast.refine) == ("MagNet-Fast", FAST)
    assert settled(RunConfig(method="MAGNET-fast", refine=0.5)).refine == 0.5
    assert settled(RunConfig()) == RunConfig()
    assert settled(RunConfig(method="patching")).method == "Patching"
    with pytest.raises(ConfigError, match="method is 'nobody', none of Patching, Downsample"):
        settled(RunConfig(method="nobody"))


def test_refining_methods_refine_at_the_finest_scale_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point(Keep)])
    assert [course_of("Mine").refines_at(i, 4) for i in range(4)] == [False, False, False, True]
    assert [course_of("MagNet").refines_at(i, 4) for i in range(4)] == [False, True, True, True]
    assert settled(RunConfig(method="mine")).refine == "all"


def test_a_patch_finds_its_place_in_the_context() -> None:
    """Positions as values: every pixel of the result holds the place of its centre, in pixels of the context."""
    height, width, ratio, corner = 20, 30, 4, (3.25, 7.5)
    rows, cols = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    places = torch.stack([rows, cols])[None]
    context = Context(places, torch.zeros(1, 1, 5, 8), ratio, corner)
    found = context.at(places, (16, 24), (16, 24))
    assert found.shape == (1, 2, 16, 24)
    expected_y = corner[0] + (torch.arange(16) + 0.5) / ratio
    expected_x = corner[1] + (torch.arange(24) + 0.5) / ratio
    assert torch.allclose(found[0, 0], expected_y[:, None].expand(16, 24), atol=1e-4)
    assert torch.allclose(found[0, 1], expected_x[None].expand(16, 24), atol=1e-4)


def test_maps_of_another_stride_cover_the_same_context() -> None:
    coarse = torch.arange(5.0)[None, None, :, None].expand(1, 1, 5, 8)
    context = Context(torch.zeros(1, 2, 20, 32), coarse, 2, (4.0, 8.0))
    found = context.at(coarse, (4, 4), (16, 16))  # rows 4 to 12 of the context: rows 1 to 3 of its features
    assert torch.allclose(found[0, 0, :, 0], torch.tensor([1.0, 1.5, 2.0, 2.5]) - 0.25)


def test_points_of_a_patch_find_their_places_in_the_context() -> None:
    rows, cols = torch.meshgrid(torch.arange(20) + 0.5, torch.arange(30) + 0.5, indexing="ij")
    places = torch.stack([rows, cols])[None]
    context = Context(places, torch.zeros(1, 1, 5, 8), 4, (3.25, 7.5))
    points = torch.tensor([[[0.0, 0.0], [1.5, 63.0], [40.25, 2.0]]])
    found = context.at_points(places, points)[0].T
    assert torch.allclose(found, torch.tensor([3.25, 7.5]) + points[0] / 4, atol=1e-4)


def test_points_at_the_centres_of_pixels_are_the_map_at_the_patch() -> None:
    features = torch.randn(2, 3, 5, 8)
    context = Context(torch.zeros(2, 2, 20, 32), features, 2, (4.0, 9.0))
    rows, cols = torch.meshgrid(torch.arange(12) + 0.5, torch.arange(16) + 0.5, indexing="ij")
    points = torch.stack([rows, cols], dim=-1).view(1, -1, 2).expand(2, -1, -1)
    found = context.at_points(features, points).view(2, 3, 12, 16)
    assert torch.allclose(found, context.at(features, (12, 16), (12, 16)), atol=1e-5)


def test_the_margin_is_cut_off() -> None:
    maps = PatchMaps(torch.arange(36.0).view(1, 1, 6, 6), 1.0, margin_px=2)
    assert maps.inner(maps.coarse).tolist() == [[[[14.0, 15.0], [20.0, 21.0]]]]
