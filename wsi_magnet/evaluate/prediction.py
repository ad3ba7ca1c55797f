"""Predictions from finished result folders: the scored class and its confidence for each pixel of any grid."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_magnet.errors import ConfigError, ResultMismatchError, StoreError
from wsi_magnet.evaluate.ground_truth import Target
from wsi_magnet.evaluate.sampling import Floats, bilinear, nearest
from wsi_magnet.geometry import Box
from wsi_magnet.results.folder import ResultFolder
from wsi_magnet.results.reader import Result
from wsi_magnet.scales import Scale
from wsi_magnet.storage.location import Location

_ANALYSED = 128
"""Minimum sum of an analysed pixel's stored probabilities, which is about 255; it is 0 without tissue, and the number
of classes, one each, where the slide could not be read."""


@dataclass(frozen=True, eq=False, slots=True)
class PredictedClasses:
    """Predicted classes of a box."""

    parts: npt.NDArray[np.int64]
    """(height, width): the scored class, or the number of classes for no prediction."""
    confidence: Floats | None
    """(height, width): its probability; None if the result has no probabilities."""


class Prediction:
    """A finished result folder; its pixels are read on demand."""

    def __init__(self, folder: Location) -> None:
        """Raises StoreError for a folder that is not a result, ResultMismatchError for an unfinished one."""
        record = ResultFolder(folder).read_run()
        if record is not None and record.running:
            raise ResultMismatchError(f"{folder} is not finished; resume it with `wsi-magnet run`")
        result = Result(folder)
        self.folder = folder
        self.spec = result.record.bundle.spec()
        self.bundle = result.record.bundle.sha256
        self.method = result.record.config.method
        self.identity = result.identity
        self.slide = result.slide_path
        self.failures = result.record.failures
        # A result of another package's method may have no areas in its summary, and no scales.
        self.scales: list[dict[str, Any]] = list((result.record.summary or {}).get("scales", ()))
        geometry = result.geometry
        self.scale = Scale(len(result.record.scales) - 1, geometry.mpp, geometry.downsample_xy, geometry.size)
        self._mask, self._probabilities = result.mask_image, result.probabilities_image

    def read(self, target: Target, scale: Scale, box: Box) -> PredictedClasses:
        """Classes of a box of `scale`'s grid, from upsampled probabilities, or from labels if there are none."""
        n = len(target)
        if (source := self._probabilities) is None:
            labels = nearest(self.scale, scale, box, lambda b: self._mask.read(0, b))
            return PredictedClasses(self._parts_of_values(target)[labels], None)
        p = bilinear(self.scale, scale, box, lambda b: self._merge(source.read(0, b), target))
        parts = p.argmax(axis=0)
        # Rounding may lift a sum of probabilities above 1.
        return PredictedClasses(parts, np.minimum(p[:n].max(axis=0), 1))

    def _merge(self, stored: npt.NDArray[np.uint8], target: Target) -> Floats:
        """Uint8 (classes, h, w) to float32 (scored classes + 1, h, w) summing to 1; the last is "no prediction"."""
        total = stored.sum(axis=0, dtype=np.int32)
        merged = np.zeros((len(target) + 1, *total.shape), np.float32)
        for i, part in enumerate(target.part_of):
            merged[part] += stored[i]
        merged /= np.maximum(total, 1)
        merged[:, total < _ANALYSED] = 0
        merged[self._part_without_tissue(target), total == 0] = 1
        merged[-1, (total > 0) & (total < _ANALYSED)] = 1
        return merged

    def _parts_of_values(self, target: Target) -> npt.NDArray[np.int64]:
        """Scored class of each label value, int64 (256)."""
        parts = np.full(256, len(target), np.int64)
        parts[0] = self._part_without_tissue(target)
        for i, one in enumerate(self.spec.classes):
            parts[one.value] = target.part_of[i]
        return parts

    def _part_without_tissue(self, target: Target) -> int:
        """Scored class of pixels without tissue: background, or no prediction if the bundle has no such class."""
        background = self.spec.background_index
        return len(target) if background is None else target.part_of[background]


def find_results(folders: Sequence[Path]) -> dict[str, list[Prediction]]:
    """Group finished results into rows: the results in one folder form a row of its name.

    folders: result folders, or folders that contain some, directly or one level deeper. Raises StoreError without a
    result, ConfigError for two results of one slide in a row.
    """
    by_parent: dict[Path, list[Path]] = defaultdict(list)
    for folder in (f.expanduser().absolute() for f in folders):
        if (folder / "run.json").exists():
            by_parent[folder.parent].append(folder)
            continue
        inside = sorted(path.parent for pattern in ("*/run.json", "*/*/run.json") for path in folder.glob(pattern))
        if not inside:
            raise StoreError(f"{folder} is not a result folder and contains none: it has no run.json")
        by_parent[folder].extend(inside)
    names = [parent.name for parent in by_parent]
    return {
        parent.name if names.count(parent.name) == 1 else str(parent): _open_row(parent, results)
        for parent, results in by_parent.items()
    }


def _open_row(parent: Path, folders: Sequence[Path]) -> list[Prediction]:
    found: dict[str, Prediction] = {}
    for one in (Prediction(folder) for folder in sorted(set(folders))):
        if one.identity in found:
            raise ConfigError(
                f"{found[one.identity].folder} and {one.folder} are both results of {one.slide.name} in the row "
                f"{parent.name!r}; put them into separate folders"
            )
        found[one.identity] = one
    return list(found.values())
