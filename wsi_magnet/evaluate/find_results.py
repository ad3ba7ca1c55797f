"""Which finished result folders form which row of the table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from wsi_magnet.errors import ConfigError, StoreError
from wsi_magnet.evaluate.prediction import Prediction


def gather(folders: Sequence[Path]) -> dict[str, list[Prediction]]:
    """The rows of finished results: those that lie in one folder form a row of its name.

    folders: result folders, or folders that hold some, directly or one folder deeper. Raises StoreError where there is
    no result, ConfigError for two of one slide in a row.
    """
    by_parent: dict[Path, list[Path]] = defaultdict(list)
    for folder in (f.expanduser().absolute() for f in folders):
        if (folder / "run.json").exists():
            by_parent[folder.parent].append(folder)
            continue
        inside = sorted(path.parent for pattern in ("*/run.json", "*/*/run.json") for path in folder.glob(pattern))
        if not inside:
            raise StoreError(f"{folder} is no result folder and holds none: there is no run.json of this program")
        by_parent[folder].extend(inside)
    names = [parent.name for parent in by_parent]
    return {
        parent.name if names.count(parent.name) == 1 else str(parent): _open(parent, results)
        for parent, results in by_parent.items()
    }


def _open(parent: Path, folders: Sequence[Path]) -> list[Prediction]:
    found: dict[str, Prediction] = {}
    for one in (Prediction(folder) for folder in sorted(set(folders))):
        if one.identity in found:
            raise ConfigError(
                f"{found[one.identity].folder} and {one.folder} are both results of {one.slide.name} in the row "
                f"{parent.name!r}; put them into folders of their own"
            )
        found[one.identity] = one
    return list(found.values())
