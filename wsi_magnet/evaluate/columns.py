"""The columns of the table: what each is called, how it is shown, and how it follows from counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wsi_magnet.evaluate.counts import Counts
from wsi_magnet.metrics import confusion as of
from wsi_magnet.metrics.boundary import boundary_f
from wsi_magnet.metrics.calibration import expected_calibration_error
from wsi_magnet.metrics.confusion import Confusion, Values
from wsi_magnet.results.grading import PATTERNS

MIOU = "miou"
QUADRATIC_KAPPA = "quadratic_kappa"
GLEASON_2019 = "gleason2019"


@dataclass(frozen=True, slots=True)
class Measure:
    """One number that says how good a result is."""

    key: str
    """In files for machines."""
    title: str
    """In tables for people."""
    percent: bool
    """Shown a hundred times as large."""
    value: Callable[[Counts], Values]
    """Of counts with any axes in front, which it keeps."""


def measures(class_names: Sequence[str], tolerances_um: Sequence[float]) -> tuple[Measure, ...]:
    """All that mean something for these classes: the poster's own first, then IoU by class, then the others.

    Two classes are always next to each other, so that quadratic kappa is kappa; the Gleason 2019 score is for patterns.
    """
    patterns = {f"gleason {pattern}" for pattern in PATTERNS}
    found = sum(name.lower() in patterns for name in class_names)
    quadratic = _of_confusion(QUADRATIC_KAPPA, "quadratic kappa", of.quadratic_kappa)
    gleason = _of_confusion(GLEASON_2019, "Gleason 2019", of.gleason2019_score)
    return (
        _of_confusion(MIOU, "mIoU %", of.mean_iou, percent=True),
        *(_class_iou(i, name) for i, name in enumerate(class_names)),
        _of_confusion("fw_iou", "FW-IoU %", of.frequency_weighted_iou, percent=True),
        _of_confusion("dice", "Dice %", of.mean_dice, percent=True),
        _of_confusion("accuracy", "accuracy %", of.pixel_accuracy, percent=True),
        _of_confusion("kappa", "kappa", of.cohen_kappa),
        *([quadratic] if len(class_names) > 2 else []),
        *([gleason] if found > 1 else []),
        *(_boundary(i, um) for i, um in enumerate(tolerances_um)),
        Measure("calibration_error", "calibration error %", True, lambda c: expected_calibration_error(c.calibration)),
    )


def iou_key(class_name: str) -> str:
    """Of the measure that is a class's IoU."""
    return f"iou: {class_name}"


def _of_confusion(key: str, title: str, metric: Callable[[Confusion], Values], *, percent: bool = False) -> Measure:
    return Measure(key, title, percent, lambda counts: metric(counts.confusion))


def _class_iou(index: int, name: str) -> Measure:
    return Measure(iou_key(name), f"{name} %", True, lambda counts: of.class_iou(counts.confusion)[..., index])


def _boundary(index: int, um: float) -> Measure:
    return Measure(
        f"boundary_f_{um:g}um",
        f"boundary F {um:g} µm %",
        True,
        lambda counts: boundary_f(counts.boundary[..., index, :]),
    )
