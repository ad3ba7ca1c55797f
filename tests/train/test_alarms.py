"""Alarms of a training: each on its bad case, none on a good one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from wsi_magnet.train.alarms import TrainingNumbers, conclusion, summary_of, training_alarms

GOOD = TrainingNumbers(
    mpps=(8.0, 4.0, 2.0, 1.0),
    miou=(0.75, 0.8, 0.84, 0.85),
    refined_miou=0.84,
    changed=(0.0, 0.05, 0.03, 0.01),
    pixels_by_class={"train": {"stroma": 10**6, "gland": 10**6}, "validation": {"stroma": 10**5, "gland": 10**5}},
    predicted={"stroma": 10**5, "gland": 10**5},
    validation_images=5,
    validation_groups=3,
    test_factor=1.1,
)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"refined_miou": 0.534}, "refiners no better", "refined everywhere, validation mIoU is 53.4 %, and 75.0 %"),
        ({"miou": (0.75, 0.75, 0.75, 0.752)}, "refiners no better", "with refiners validation mIoU is 75.2 %"),
        ({"changed": (0.0, 0.05, 0.0, 0.0)}, "refinement switched off", "2, 1 µm/px: masks have the detail of 4 µm/px"),
        (
            {"pixels_by_class": {"validation": {"stroma": 10**5, "gland": 12}}},
            "class without pixels",
            "the validation rows have fewer than 1,000 labelled pixels of gland",
        ),
        ({"predicted": {"stroma": 10**5, "gland": 0}}, "class never predicted", "gland, where 100,000 pixels are"),
        ({"validation_images": 1, "validation_groups": 1}, "small validation", "on 1 image of 1 group"),
        ({"test_factor": 2.0}, "unlike the training data", "2 times as far"),
    ],
)
def test_each_fault_has_its_alarm(changes: dict[str, Any], kind: str, words: str) -> None:
    numbers = replace(GOOD, **changes)
    (alarm,) = training_alarms(numbers)
    assert alarm.kind == kind
    assert words in alarm.text
    assert conclusion(numbers, [alarm]).endswith("; 1 alarm")


def test_a_good_training_has_none() -> None:
    assert training_alarms(GOOD) == ()
    text = "refining raises validation mIoU: from 75.0 % at 8 µm/px to 85.0 % at 1 µm/px; no alarm"
    assert summary_of(GOOD) == {"conclusion": text, "alarms": []}


def test_a_bundle_of_one_scale_has_no_refiners_to_judge() -> None:
    one = replace(GOOD, mpps=(8.0,), miou=(0.7,), refined_miou=None, changed=(0.0,), test_factor=None)
    assert training_alarms(one) == ()
    assert conclusion(one, []) == "a bundle of one scale, with a validation mIoU of 70.0 %; no alarm"
