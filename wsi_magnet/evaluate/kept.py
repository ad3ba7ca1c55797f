"""Times and memory of a row whose results are kept: a file beside them, so that they can be scored again with these."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from wsi_magnet.errors import ResultMismatchError
from wsi_magnet.evaluate.prediction import Prediction
from wsi_magnet.evaluate.worker import PeakMemory, Segmented
from wsi_magnet.schema import Bounds, parse
from wsi_magnet.storage.atomic import replace_file
from wsi_magnet.storage.errors import storage_errors

FILE = "row.json"


@dataclass(frozen=True, slots=True)
class KeptRow:
    """Costs of a row's results."""

    seconds: Mapping[str, Annotated[float, Bounds(0)]]
    """Wall time of each result, by its folder relative to the row's."""
    ram: Annotated[int, Bounds(0)]
    """Peak memory, in bytes."""
    gpu: Annotated[int, Bounds(0)] | None
    """Peak of the GPU's memory, in bytes."""

    @property
    def peak(self) -> PeakMemory:
        """Peak memory."""
        return PeakMemory(self.ram, self.gpu)


def read_row(folder: Path) -> KeptRow | None:
    """Costs of the results in a row's folder; None where they are not known. Raises ResultMismatchError."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with storage_errors(path):
            row: KeptRow = parse(KeptRow, json.loads(path.read_text(encoding="utf-8")), "")
    except ValueError as error:
        raise ResultMismatchError(f"{path} is damaged: {error}; delete it, and times are unknown") from error
    return row


def write_row(folder: Path, done: Sequence[Segmented], peak: PeakMemory) -> None:
    """Record the costs of results in a row's folder, beside those of earlier ones. Raises StoreError."""
    earlier = read_row(folder)
    seconds = {str(one.folder.relative_to(folder)): one.seconds for one in done}
    row = KeptRow(seconds, peak.ram, peak.gpu)
    if earlier is not None:
        both = _most([earlier.peak, peak])
        row = KeptRow({**earlier.seconds, **seconds}, both.ram, both.gpu)
    with storage_errors(folder):
        replace_file(folder / FILE, (json.dumps(asdict(row), indent=2) + "\n").encode())


def costs(results: Sequence[Prediction]) -> tuple[tuple[float, ...] | None, PeakMemory | None]:
    """Wall time of each result and the row's peak memory; None unless they are known of all results."""
    seconds, rows = [], []
    for one in results:
        if not isinstance(one.folder, Path):
            return None, None
        found = _cost(one.folder)
        if found is None:
            return None, None
        seconds.append(found[0])
        rows.append(found[1])
    return tuple(seconds), _most([row.peak for row in rows])


def _cost(folder: Path) -> tuple[float, KeptRow] | None:
    """Time of a result, which lies in its row's folder or one level deeper, and the row."""
    for parent in (folder.parent, folder.parent.parent):
        row = read_row(parent)
        if row is not None and (name := str(folder.relative_to(parent))) in row.seconds:
            return row.seconds[name], row
    return None


def _most(peaks: Sequence[PeakMemory]) -> PeakMemory:
    gpu = [one.gpu for one in peaks if one.gpu is not None]
    return PeakMemory(max(one.ram for one in peaks), max(gpu) if gpu else None)
