"""Columns of the evaluation table: name, format, and computation from counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from wsi_magnet.errors import ConfigError
from wsi_magnet.evaluate.counts import Counts
from wsi_magnet.metrics import confusion as of
from wsi_magnet.metrics import halves as against
from wsi_magnet.metrics.boundary import boundary_f
from wsi_magnet.metrics.calibration import expected_calibration_error
from wsi_magnet.metrics.confusion import Confusion, Values
from wsi_magnet.metrics.halves import Agreement
from wsi_magnet.results.grading import PATTERNS

MIOU = "miou"
ACCURACY = "accuracy"
FINE_ALONE, COARSE_ALONE, ORACLE = "fine_alone_right", "coarse_alone_right", "oracle"
MENDED, SPOILED, HEADROOM = "mended", "spoiled", "headroom"
QUADRATIC_KAPPA = "quadratic_kappa"
GLEASON_2019 = "gleason2019"


@dataclass(frozen=True, slots=True)
class Measure:
    """One quality measure of a result."""

    key: str
    """Name in JSON and CSV."""
    title: str
    """Heading in tables."""
    percent: bool
    """Shown in percent."""
    value: Callable[[Counts], Values]
    """Computes it from counts; leading axes are kept."""


def measures(
    class_names: Sequence[str], tolerances_um: Sequence[float], mean_without: Sequence[str] = ()
) -> tuple[Measure, ...]:
    """The measures that are meaningful for these classes: the poster's own first, then IoU by class, then others.

    With two classes quadratic kappa equals kappa and is left out; the Gleason 2019 score needs Gleason patterns.
    mean_without: names, in either case, of classes that are no part of the means. Raises ConfigError for an unknown
    one, and where no class is left.
    """
    without = _indices(class_names, mean_without)
    patterns = {f"gleason {pattern}" for pattern in PATTERNS}
    found = sum(name.lower() in patterns for name in class_names)
    quadratic = _of_confusion(QUADRATIC_KAPPA, "quadratic kappa", of.quadratic_kappa)
    gleason = _of_confusion(GLEASON_2019, "Gleason 2019", of.gleason2019_score)
    return (
        _of_confusion(MIOU, "mIoU %", partial(of.mean_iou, without=without), percent=True),
        *(_class_iou(i, name) for i, name in enumerate(class_names)),
        _of_confusion("fw_iou", "FW-IoU %", partial(of.frequency_weighted_iou, without=without), percent=True),
        _of_confusion("dice", "Dice %", partial(of.mean_dice, without=without), percent=True),
        _of_confusion(ACCURACY, "accuracy %", of.pixel_accuracy, percent=True),
        _of_confusion("kappa", "kappa", of.cohen_kappa),
        *([quadratic] if len(class_names) > 2 else []),
        *([gleason] if found > 1 else []),
        *(_boundary(i, um) for i, um in enumerate(tolerances_um)),
        Measure("calibration_error", "calibration error %", True, lambda c: expected_calibration_error(c.calibration)),
    )


def _indices(class_names: Sequence[str], chosen: Sequence[str]) -> tuple[int, ...]:
    """Indices of the chosen names."""
    known = [name.lower() for name in class_names]
    if unknown := [name for name in chosen if name.lower() not in known]:
        raise ConfigError(f"no scored class is called {unknown[0]!r}; they are {', '.join(class_names)}")
    found = tuple(sorted({known.index(name.lower()) for name in chosen}))
    if len(found) == len(known):
        raise ConfigError("means without any class have no value; leave one in")
    return found


def iou_key(class_name: str) -> str:
    """Key of a class's IoU."""
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


def _against(key: str, title: str, metric: Callable[[Agreement], Values]) -> Measure:
    return Measure(key, title, True, lambda counts: metric(counts.agreement))


HALVES = (
    _against(FINE_ALONE, "fine alone right %", against.fine_alone_right),
    _against(MENDED, "mended %", against.mended),
    _against(COARSE_ALONE, "coarse alone right %", against.coarse_alone_right),
    _against(SPOILED, "spoiled %", against.spoiled),
    _against(ORACLE, "oracle %", against.oracle),
    _against(HEADROOM, "headroom %", against.headroom),
)
"""Measures of a row that has halves; undefined for all others."""
