"""The rows: the built-in ones, those of other packages, and a worker of their own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.evaluate.made import MPP, bundle_at, paint, patchwork
from tests.runs import labels_of
from wsi_magnet.config import Execution, RunConfig
from wsi_magnet.errors import ConfigError, StoreError, WsiMagnetError
from wsi_magnet.evaluate.methods import MethodRow, Row, Settings, all_rows, choose
from wsi_magnet.evaluate.worker import Item, segment_isolated
from wsi_magnet.methods import registry

SETTINGS = Settings(RunConfig(mpp=MPP, tissue=False, keep_probabilities=True), Execution(device="cpu"))


@dataclass(frozen=True)
class Failing:
    """A method that cannot do it, in a way that the user can mend."""

    name: str = "failing"

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


def test_methods_are_chosen_by_name_in_the_tables_order() -> None:
    rows = all_rows(0.25)
    assert [row.name for row in choose(rows, ["magnet", " PATCHING"])] == ["Patching", "MagNet"]
    assert [row.name for row in choose(rows, [])] == ["Patching", "Downsample", "MagNet-Fast", "MagNet"]
    assert choose(rows, ["all"]) == rows
    assert [row.refine for row in choose(rows, ["magnet-fast", "magnet"])] == [0.25, "all"]


def test_methods_that_a_bundle_was_trained_for_are_rows_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_OWN", {"Mine": ("mine", "Mine"), "Other": ("other", "Other")})
    chosen = choose(all_rows(0.25), [], ["Mine"])
    assert [row.name for row in chosen] == ["Patching", "Downsample", "Mine", "MagNet-Fast", "MagNet"]


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="unknown method 'nobody'; available are Patching, Downsample"):
        choose(all_rows(0.25), ["Nobody"])


@pytest.mark.slow
def test_a_worker_makes_results_and_says_what_it_took(tmp_path: Path) -> None:
    slide = paint(tmp_path / "a.png", patchwork(0))
    said: list[str] = []
    items = [Item(slide, tmp_path / "out", SETTINGS)]
    done, peak = segment_isolated(MethodRow(), bundle_at(tmp_path), items, said.append)
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
def test_a_method_that_fails_is_one_line(tmp_path: Path, method: Row, text: str) -> None:
    items = [Item(tmp_path / "a.png", tmp_path / "out", SETTINGS)]
    with pytest.raises(WsiMagnetError, match=f"^{text}"):
        segment_isolated(method, tmp_path / "bundle", items, lambda text: None)
