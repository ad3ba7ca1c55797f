"""The rows: the built-in ones, those of other packages, and a worker of their own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.evaluate.made import MPP, bundle_at, paint, patchwork, two_scales
from tests.runs import free_spec, labels_of, write_bundle
from wsi_magnet.config import Execution, RunConfig
from wsi_magnet.errors import ConfigError, StoreError, WsiMagnetError
from wsi_magnet.evaluate import methods
from wsi_magnet.evaluate.methods import MagNet, Method, OneScale, Settings, all_methods, built_in, choose, single_scale
from wsi_magnet.evaluate.worker import Item, segment_isolated
from wsi_magnet.nets.bundle import load_bundle
from wsi_magnet.nets.spec import bundle_path, read_spec

SETTINGS = Settings(RunConfig(mpp=MPP, tissue=False, keep_probabilities=True), Execution(device="cpu"))


@dataclass(frozen=True)
class Failing:
    """A method that cannot do it, in a way that the user can mend."""

    name: str = "failing"

    def prepare(self, slide: Path, bundle: Path, folder: Path, settings: Settings) -> Path:
        """Nothing to do."""
        return bundle

    def segment(self, slide: Path, bundle: Path, out: Path, settings: Settings) -> Path:
        """Raises StoreError."""
        raise StoreError(f"{slide.name} is too much")


@dataclass(frozen=True)
class Strange(Failing):
    """One that its author has not finished."""

    def segment(self, slide: Path, bundle: Path, out: Path, settings: Settings) -> Path:
        """Raises ZeroDivisionError."""
        raise ZeroDivisionError("no such\nnumber")


@dataclass(frozen=True)
class Dying(Failing):
    """A method whose process is gone in the midst of it."""

    def segment(self, slide: Path, bundle: Path, out: Path, settings: Settings) -> Path:
        """Ends the process."""
        os._exit(3)


@dataclass(frozen=True)
class Point:
    """An entry point of another package."""

    loaded: object
    name: str = "mine"
    value: str = "package:mine"

    def load(self) -> object:
        """What it names."""
        return self.loaded


def test_one_scale_of_a_bundle_is_a_bundle(tmp_path: Path) -> None:
    spec = free_spec(temperature=(1.0, 1.5, 2.0))
    bundle = write_bundle(tmp_path / "free.safetensors", spec)
    slide = paint(tmp_path / "a.png", patchwork(0))
    for method, mpp, temperature in ((OneScale("p", "finest"), 0.5, 2.0), (OneScale("d", "coarsest"), 2.0, 1.0)):
        own = load_bundle(method.prepare(slide, bundle, tmp_path, SETTINGS))
        assert (own.spec.mpps, own.spec.temperature, own.refiners) == ((mpp,), (temperature,), ())


def test_one_scale_of_a_bundle_with_a_profile_is_a_bundle(tmp_path: Path) -> None:
    assert load_bundle("default").spec.profile is not None
    slide = paint(tmp_path / "a.png", patchwork(0))
    own = load_bundle(OneScale("d", "coarsest").prepare(slide, bundle_path("default"), tmp_path, SETTINGS))
    assert (own.spec.mpps, own.spec.profile, own.statistics) == ((8.0,), None, None)


def test_the_finest_scale_is_the_finest_that_the_slide_has(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "free.safetensors", free_spec(mpps=(1.0, 0.5, 0.25)))
    slide = paint(tmp_path / "a.png", patchwork(0))
    path = OneScale("p", "finest").prepare(slide, bundle, tmp_path, SETTINGS)
    assert read_spec(path)[0].mpps == (0.5,)


def test_a_single_scale_keeps_everything_else() -> None:
    one = single_scale(two_scales(), 1)
    assert (one.classes, one.mean, one.network) == (two_scales().classes, two_scales().mean, "identity")


def test_methods_are_chosen_by_name_in_the_tables_order() -> None:
    assert [m.name for m in choose(built_in(0.25), ["magnet", " PATCHING"])] == ["Patching", "MagNet"]
    assert len(choose(built_in(0.25), [])) == 4


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="unknown method 'glnet'; available are Patching, Downsample"):
        choose(built_in(0.25), ["GLNet"])


def test_other_packages_bring_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "entry_points", lambda group: [Point(Failing())])
    assert [m.name for m in all_methods(0.1)] == ["failing", "Patching", "Downsample", "MagNet-Fast", "MagNet"]


def test_what_is_no_method_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "entry_points", lambda group: [Point("text")])
    with pytest.raises(ConfigError, match=r"entry point 'mine' .*package:mine\) is not a Method"):
        all_methods(0.1)


@pytest.mark.slow
def test_a_worker_makes_results_and_says_what_it_took(tmp_path: Path) -> None:
    slide = paint(tmp_path / "a.png", patchwork(0))
    said: list[str] = []
    items = [Item(slide, tmp_path / "out", SETTINGS)]
    done, peak = segment_isolated(MagNet(), bundle_at(tmp_path), items, tmp_path, said.append)
    assert labels_of(done[0].folder).shape == (150, 190)
    assert done[0].seconds > 0
    assert 50e6 < peak.ram < 5e9
    assert said[0].startswith("MagNet: 1 of 1, a, ")


@pytest.mark.parametrize(
    ("method", "text"),
    [
        pytest.param(Failing(), "failing: a.png is too much", marks=pytest.mark.slow),
        pytest.param(Strange(), "failing: ZeroDivisionError: no such number", marks=pytest.mark.slow),
        (Dying(), r"failing: its process died after 0 of 1 images: it ended with exit code 3 "),
    ],
)
def test_a_method_that_fails_is_one_line(tmp_path: Path, method: Method, text: str) -> None:
    items = [Item(tmp_path / "a.png", tmp_path / "out", SETTINGS)]
    with pytest.raises(WsiMagnetError, match=f"^{text}"):
        segment_isolated(method, tmp_path / "bundle", items, tmp_path, lambda text: None)


class Unloadable:
    """An entry point whose package is broken."""

    name, value = "broken", "broken:METHOD"

    def load(self) -> object:
        """Raises ModuleNotFoundError."""
        raise ModuleNotFoundError("No module named 'broken'")


def test_a_method_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "entry_points", lambda group: [Unloadable()])
    with pytest.raises(ConfigError, match=r"entry point 'broken' .* cannot be loaded: ModuleNotFoundError"):
        all_methods(0.25)
