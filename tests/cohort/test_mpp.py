"""Microns per pixel from the slide, from the batch, and from a list."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cohort.made import SIZE, Batches, write_slide
from tests.slides_made import stained, write_pyramid
from wsi_magnet.cohort.events import SlideEvent
from wsi_magnet.config import RunConfig
from wsi_magnet.results.events import Note


@pytest.fixture
def mixed(batches: Batches) -> Batches:
    """A slide that says 0.5 µm, and one that says nothing."""
    write_slide(batches.slides / "told.tif")
    write_pyramid(batches.slides / "untold.tif", stained(SIZE, 1), mpp=None)
    return batches


def mpps(batches: Batches) -> dict[str, float]:
    """What each result was made with."""
    runs = {path.parent.name: json.loads(path.read_text()) for path in batches.folder.glob("*/run.json")}
    return {name: run["slide"]["mpp_xy"][0] for name, run in runs.items()}


def notes(batches: Batches) -> list[str]:
    return [e.event.text for e in batches.of_kind(SlideEvent) if e.name == "told" and isinstance(e.event, Note)]


def at(mpp: float | None) -> RunConfig:
    return RunConfig(mpp=mpp, tile_px=512)


def test_the_batchs_mpp_is_for_slides_without_one(mixed: Batches) -> None:
    untold = mixed.run().states["untold"]
    assert (untold.state, untold.error_type) == ("failed", "MissingMppError")
    assert "a CSV list with the columns slide and mpp gives each slide its own" in (untold.error or "")
    assert untold.retry.endswith("--mpp MICRONS")
    assert mixed.run(config=at(1.0)).all_well
    assert mpps(mixed) == {"told": pytest.approx(0.5), "untold": 1.0}
    assert not [text for text in notes(mixed) if "is taken as" in text]
    assert mixed.run(config=at(1.0)).worked_on == 0


def test_a_slides_own_mpp_is_replaced_only_on_demand_with_a_note(mixed: Batches) -> None:
    assert mixed.run(config=at(1.0), override_mpp=True).all_well
    assert mpps(mixed) == {"told": 1.0, "untold": 1.0}
    assert "1 µm/px is used (--mpp) instead of 0.5 in the slide's metadata" in notes(mixed)
    again = mixed.run(config=at(1.0))
    assert again.refused.keys() == {"told"}, "it was made with other options"
    assert "(--mpp) was 1 x 1 and is 0.5 x 0.5" in again.refused["told"]


def test_an_mpp_that_replaces_an_impossible_one_is_told(batches: Batches) -> None:
    write_pyramid(batches.slides / "told.tif", stained(SIZE, 1), mpp=352.8)
    assert batches.run(config=at(1.0)).all_well
    [note] = [text for text in notes(batches) if "--mpp" in text]
    assert "352.8, which is not possible: --mpp 1 is used; a CSV list" in note


def test_a_slide_too_coarse_for_the_bundle_fails_alone(mixed: Batches) -> None:
    (mixed.slides / "list.csv").write_text("slide,mpp\ntold.tif,\nuntold.tif,29\n")
    states = mixed.run("list.csv").states
    assert states["told"].state == "finished"
    assert (states["untold"].state, states["untold"].error_type) == ("failed", "ConfigError")
    assert "29 µm, 29 times as coarse as the coarsest scale of the bundle (1 µm/px)" in (states["untold"].error or "")


def test_a_row_of_a_list_overrides(mixed: Batches) -> None:
    (mixed.slides / "list.csv").write_text("slide,mpp\ntold.tif,1.0\nuntold.tif,\n")
    options: dict[str, Any] = {"config": at(0.5)}
    assert mixed.run("list.csv", **options).all_well
    assert mpps(mixed) == {"told": 1.0, "untold": 0.5}
