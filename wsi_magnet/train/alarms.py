"""Alarms of a training: reasons not to use its bundle, or not to believe its figures, each with what to try."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsi_magnet.results.alarms import LEAST_CHANGED, UNLIKE_FACTOR, Alarm, detail_mpp
from wsi_magnet.text import counted, percent_text

LEAST_GAIN = 0.005
"""Least gain of validation mIoU from refining: half a point is less than two trainings with other seeds differ by."""

LEAST_IMAGES, LEAST_GROUPS = 3, 2
"""Validation rows and groups from which a choice of steps and thresholds is more than luck."""

LEAST_PIXELS = 1000
"""Labelled pixels of a class, at the finest scale, from which it can be learned or judged: a few nuclei."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingNumbers:
    """Numbers of a finished training from which its alarms are decided; scales run from coarse to fine."""

    mpps: Sequence[float]
    miou: Sequence[float]
    """Validation mIoU of the merged result after each scale, with the fitted thresholds."""
    refined_miou: float | None
    """Best validation mIoU of the second stage, where every pixel was refined; None if unknown."""
    changed: Sequence[float]
    """Share of the validation pixels to which each scale gave another label."""
    pixels_by_class: Mapping[str, Mapping[str, int]]
    """Labelled pixels by class in each split, the background class aside."""
    predicted: Mapping[str, int]
    """Pixels of each class that the bundle found in the validation images."""
    validation_images: int
    validation_groups: int
    test_factor: float | None = None
    """Distance of the most unusual test image from the training data, as a multiple of the most unusual held-out one;
    None without test rows."""


def training_alarms(numbers: TrainingNumbers) -> tuple[Alarm, ...]:
    """Alarms of a training, the gravest first."""
    return (
        *_no_gain(numbers),
        *_switched_off(numbers),
        *_classes(numbers),
        *_small_validation(numbers),
        *_unlike_test(numbers),
    )


def conclusion(numbers: TrainingNumbers, alarms: Sequence[Alarm]) -> str:
    """One sentence on what the bundle is worth."""
    first, last = numbers.miou[0], numbers.miou[-1]
    if len(numbers.mpps) == 1:
        text = f"a bundle of one scale, with a validation mIoU of {_percent(first)}"
    else:
        gained = (
            f"from {_percent(first)} at {numbers.mpps[0]:g} µm/px to {_percent(last)} at {numbers.mpps[-1]:g} µm/px"
        )
        word = "raises" if last - first >= LEAST_GAIN else "does not raise"
        text = f"refining {word} validation mIoU: {gained}"
    return f"{text}; {counted(len(alarms), 'alarm')}" if alarms else f"{text}; no alarm"


def _no_gain(numbers: TrainingNumbers) -> Iterable[Alarm]:
    if len(numbers.mpps) == 1:
        return
    first, last, refined = numbers.miou[0], numbers.miou[-1], numbers.refined_miou
    values = {"backbone_miou": first, "miou": last, "refined_miou": refined}
    cure = "try more refiners.steps, a lower refiners.learning_rate or more images, or use a bundle of one scale"
    if refined is not None and refined < first:
        yield Alarm(
            "refiners no better",
            f"refined everywhere, validation mIoU is {_percent(refined)}, and {_percent(first)} without refiners at "
            f"{numbers.mpps[0]:g} µm/px; the fitted thresholds leave {_percent(last)} of it: {cure}",
            values,
        )
    elif last - first < LEAST_GAIN:
        yield Alarm(
            "refiners no better",
            f"with refiners validation mIoU is {_percent(last)}, and {_percent(first)} without: {cure}",
            values,
        )


def _switched_off(numbers: TrainingNumbers) -> Iterable[Alarm]:
    scales = [{"mpp": m, "changed_share": c} for m, c in zip(numbers.mpps, numbers.changed, strict=True)]
    detail = detail_mpp(scales)
    if detail is None or detail == numbers.mpps[-1]:
        return
    finer = [f"{one:g}" for one in numbers.mpps if one < detail]
    yield Alarm(
        "refinement switched off",
        f"the fitted thresholds leave less than {LEAST_CHANGED:.1%} of the pixels to {', '.join(finer)} µm/px: masks "
        f"have the detail of {detail:g} µm/px; leave these scales out of mpps, or train the refiners longer",
        {"detail_mpp": detail, "changed": [round(one, 5) for one in numbers.changed]},
    )


def _classes(numbers: TrainingNumbers) -> Iterable[Alarm]:
    for split, pixels in numbers.pixels_by_class.items():
        few = [name for name, count in pixels.items() if count < LEAST_PIXELS]
        if few:
            yield Alarm(
                "class without pixels",
                f"the {split} rows have fewer than {LEAST_PIXELS:,} labelled pixels of {', '.join(few)}: add images "
                "that have them",
                {"split": split, "pixels": {name: pixels[name] for name in few}},
            )
    labelled = numbers.pixels_by_class.get("validation", {})
    never = [name for name, count in numbers.predicted.items() if not count and labelled.get(name, 0) >= LEAST_PIXELS]
    if never:
        yield Alarm(
            "class never predicted",
            f"no validation pixel is predicted to be {', '.join(never)}, where "
            f"{sum(labelled[name] for name in never):,} pixels are: train longer, or balance the classes "
            "(class_weight, class_balance)",
            {"classes": never},
        )


def _small_validation(numbers: TrainingNumbers) -> Iterable[Alarm]:
    images, groups = numbers.validation_images, numbers.validation_groups
    if images < LEAST_IMAGES or groups < LEAST_GROUPS:
        yield Alarm(
            "small validation",
            f"steps and thresholds were chosen on {counted(images, 'image')} of {counted(groups, 'group')} and are "
            f"partly luck: validate on at least {LEAST_IMAGES} images of {LEAST_GROUPS} groups",
            {"images": images, "groups": groups},
        )


def _unlike_test(numbers: TrainingNumbers) -> Iterable[Alarm]:
    factor = numbers.test_factor
    if factor is not None and factor > UNLIKE_FACTOR:
        yield Alarm(
            "unlike the training data",
            f"a test image lies {factor:.2g} times as far from the training data as the most unusual held-out image: "
            "figures of the test rows are those of other data; train on images like them",
            {"factor": round(factor, 3)},
        )


def _percent(share: float) -> str:
    return percent_text(100 * share)


def summary_of(numbers: TrainingNumbers) -> dict[str, Any]:
    """Alarms and conclusion as plain values for training.json."""
    alarms = training_alarms(numbers)
    return {"conclusion": conclusion(numbers, alarms), "alarms": [one.to_json() for one in alarms]}
