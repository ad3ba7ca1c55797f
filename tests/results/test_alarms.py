"""Alarms: each on its bad case, none on a good one, with the numbers in the text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from wsi_magnet.nets.profile import TrainingProfile
from wsi_magnet.results.alarms import (
    LEAST_CHANGED,
    Alarm,
    SlideNumbers,
    alarms_of,
    detail_mpp,
    kinds_text,
    preliminary,
)

PROFILE = TrainingProfile(
    class_shares={"1": (0.3, 0.8), "6": (0.1, 0.6)},
    uncertainty=(0.3, 0.3, 0.3, 0.3),
    distances=(1.0, 0.8, 0.6, 0.5),
    images=6,
)
NUMBERS = SlideNumbers(slide_mpp=0.5, coarsest_mpp=8.0, upsampled=False, refine="auto", profile=PROFILE)


def scale(mpp: float, **changes: Any) -> dict[str, Any]:
    """A scale at which everything is well."""
    values = {"mpp": mpp, "cells": 100, "cells_refined": 100, "cells_unaffected": 20, "mean_uncertainty": 0.2}
    return {**values, "changed_share": 0.02, "blocks_compared": 50, "mean_distance": 0.4, **changes}


def summary(*scales: dict[str, Any], stroma: float = 6.0, gland: float = 4.0) -> dict[str, Any]:
    """Summary of a good run, with these scales and areas in mm²."""
    classes = [("background", 0, 2.0), ("stroma", 1, stroma), ("gland", 6, gland)]
    return {
        "analysed_mm2": stroma + gland,
        "not_analysed_mm2": 0.0,
        "background_mm2": 5.0,
        "not_looked_at_mm2": 2.0,
        "classes": [{"name": name, "value": value, "area_mm2": mm2} for name, value, mm2 in classes],
        "scales": list(scales or (scale(8.0, changed_share=0.0), scale(4.0), scale(2.0), scale(1.0))),
    }


def only(alarms: tuple[Alarm, ...]) -> Alarm:
    assert len(alarms) == 1, alarms
    return alarms[0]


def test_a_good_run_has_none() -> None:
    assert alarms_of(summary(), NUMBERS) == ()
    assert alarms_of(summary(), replace(NUMBERS, profile=None)) == ()
    assert alarms_of(summary(scale(8.0)), NUMBERS) == ()


def test_an_upsampled_slide() -> None:
    alarm = only(alarms_of(summary(scale(8.0)), replace(NUMBERS, slide_mpp=12.0, upsampled=True)))
    assert alarm.kind == "upsampled"
    assert "12 µm, 1.5 times as coarse" in alarm.text


def test_fluorescence_is_named_and_nothing_else_judged() -> None:
    dark = replace(NUMBERS, dark_share=0.93)
    alarm = only(alarms_of(summary(stroma=10.0, gland=0.0), dark))
    assert (alarm.kind, alarm.values) == ("fluorescence", {"dark_share": 0.93})
    assert [one.kind for one in alarms_of(summary(stroma=0.0, gland=0.0), dark)] == ["fluorescence", "no tissue"]


def test_an_empty_mask() -> None:
    alarm = only(alarms_of(summary(stroma=0.0, gland=0.0), NUMBERS))
    assert (alarm.kind, "--no-tissue" in alarm.text) == ("no tissue", True)
    whole = replace(NUMBERS, tissue_only=False)
    assert "--no-tissue" not in only(alarms_of(summary(stroma=0.0, gland=0.0), whole)).text
    assert alarms_of({**summary(stroma=0.0, gland=0.0), "not_analysed_mm2": 5.0}, NUMBERS) == ()


def test_networks_that_take_all_tissue_for_background() -> None:
    numbers = replace(NUMBERS, background=True, tissue_mm2=2.5)
    far = scale(8.0, mean_distance=2.0)
    first, second = alarms_of(summary(far, stroma=0.0, gland=0.0), numbers)
    assert (first.kind, first.values, second.kind) == (
        "all background", {"tissue_mm2": 2.5}, "unlike the training data",
    )  # fmt: skip
    assert "took all of 2.50 mm² of tissue for background" in first.text
    assert "--no-tissue" not in first.text
    assert "of tissue" not in alarms_of(summary(stroma=0.0, gland=0.0), replace(numbers, tissue_only=False))[0].text
    dark = alarms_of(summary(stroma=0.0, gland=0.0), replace(numbers, dark_share=0.9))
    assert [one.kind for one in dark] == ["fluorescence", "all background"]
    unread = {**summary(stroma=0.0, gland=0.0), "background_mm2": 2.0, "not_analysed_mm2": 3.0}
    assert alarms_of(unread, numbers) == (), "what could not be read was taken for nothing"
    assert only(alarms_of(summary(stroma=0.0, gland=0.0), replace(numbers, tissue_mm2=0.0))).kind == "no tissue"


@pytest.mark.parametrize(
    ("shares", "expected"),
    [((0.0, 0.0, 0.0), 8.0), ((0.0, 0.02, 0.0), 2.0), ((LEAST_CHANGED, 0.0, 0.0), 4.0), ((0.1, 0.1, 0.1), 1.0)],
)
def test_detail_is_that_of_the_finest_scale_that_changed_something(shares: tuple[float, ...], expected: float) -> None:
    finer = [scale(mpp, changed_share=share) for mpp, share in zip((4.0, 2.0, 1.0), shares, strict=True)]
    scales = [scale(8.0, changed_share=0.0), *finer]
    assert detail_mpp(scales) == expected
    alarms = alarms_of(summary(*scales), NUMBERS)
    assert bool(alarms) == (expected > 2.0)
    if alarms:
        assert only(alarms).text.startswith(f"this is a mask of {expected:g} µm/px: finer scales, up to 1 µm/px,")


def test_cells_that_were_not_read_at_the_finest_scale_are_counted() -> None:
    nothing = {"cells_refined": 10, "cells_unaffected": 10, "changed_share": 0.0}
    scales = [scale(8.0, changed_share=0.0), *(scale(mpp, **nothing) for mpp in (4.0, 2.0, 1.0))]
    alarm = only(alarms_of(summary(*scales), NUMBERS))
    assert "0 of 300 cells were read" in alarm.text
    assert "--refine all" in alarm.text
    assert "--refine all" not in only(alarms_of(summary(*scales), replace(NUMBERS, refine="all"))).text


def test_a_mask_of_one_class_has_nothing_to_refine() -> None:
    scales = [scale(8.0, changed_share=0.0), *(scale(mpp, changed_share=0.0) for mpp in (4.0, 2.0, 1.0))]
    alarm = only(alarms_of(summary(*scales, stroma=0.0), replace(NUMBERS, profile=None)))
    assert alarm.kind == "one class"


def test_results_that_did_not_count_changes_have_no_detail() -> None:
    scales = [scale(8.0), scale(4.0, changed_share=None)]
    assert detail_mpp(scales) is None
    assert alarms_of(summary(*scales), NUMBERS) == ()
    del scales[1]["changed_share"]
    assert detail_mpp(scales) is None


def test_a_class_above_what_training_had() -> None:
    alarm = only(alarms_of(summary(stroma=1.0, gland=9.0), NUMBERS))
    assert alarm.kind == "class share"
    assert "90.0 % of the tissue is 'gland', and no training image had more than 60.0 %" in alarm.text
    assert alarms_of(summary(stroma=1.5, gland=8.5), NUMBERS) == (), "six images of training are no measure"
    rare = replace(NUMBERS, profile=replace(PROFILE, class_shares={"6": (0.0, 0.05)}))
    assert alarms_of(summary(stroma=8.5, gland=1.5), rare) == ()
    assert only(alarms_of(summary(stroma=8.0, gland=2.0), rare)).kind == "class share"


def test_a_class_that_every_training_image_had() -> None:
    alarms = alarms_of(summary(stroma=10.0, gland=0.0), NUMBERS)
    assert [one.kind for one in alarms] == ["class share", "class never predicted"]
    rare = replace(PROFILE, class_shares={"1": (0.3, 1.0), "6": (0.0, 0.6)})
    assert alarms_of(summary(stroma=10.0, gland=0.0), replace(NUMBERS, profile=rare)) == ()


def test_a_single_class_is_an_alarm_where_the_bundle_knows_no_better() -> None:
    unknown = replace(NUMBERS, profile=None)
    assert only(alarms_of(summary(stroma=0.05, gland=30.0), unknown)).kind == "one class"
    assert alarms_of(summary(stroma=0.5, gland=30.0), unknown) == ()
    assert alarms_of(summary(stroma=0.0, gland=0.05), unknown) == (), "too little tissue to judge shares by"


def test_uncertainty_above_that_of_validation() -> None:
    scales = [scale(8.0, mean_uncertainty=0.9, changed_share=0.0), scale(4.0, mean_uncertainty=0.5)]
    alarm = only(alarms_of(summary(*scales), NUMBERS))
    assert (alarm.kind, alarm.values["mean_uncertainty"]) == ("uncertain", 0.5)


def test_tissue_far_from_the_training_data() -> None:
    scales = [scale(8.0, mean_distance=1.2), scale(4.0, mean_distance=1.6), scale(2.0, mean_distance=0.9)]
    alarm = only(alarms_of(summary(*scales), NUMBERS))
    assert alarm.kind == "unlike the training data"
    assert (alarm.values["factor"], alarm.values["mpp"]) == (2.0, 4.0)


@pytest.mark.parametrize("changes", [{"blocks_compared": 3}, {"cells_refined": 40}, {"mean_distance": None}])
def test_too_few_places_are_not_judged(changes: dict[str, Any]) -> None:
    far = scale(4.0, **{"mean_distance": 3.0, **changes})
    assert alarms_of(summary(scale(8.0, changed_share=0.0), far), NUMBERS) == ()


def test_an_alarm_comes_back_from_json() -> None:
    alarm = Alarm("upsampled", "coarse", {"slide_mpp": 12.0})
    assert Alarm.all_of({"alarms": [alarm.to_json(), {"kind": "new"}, 3]}) == (alarm,)
    for values in ("abc", [1, 2], 5, None):
        assert Alarm.all_of({"alarms": [{"kind": "a", "text": "b", "values": values}]}) == (Alarm("a", "b"),)
    assert Alarm.all_of({}) == Alarm.all_of({"alarms": None}) == ()
    assert kinds_text([alarm, alarm, preliminary(8.0, 1.0)]) == "upsampled; preliminary"
