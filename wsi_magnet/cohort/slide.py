"""A slide of a cohort, before it is segmented: its path, and its own options from a list."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from wsi_magnet.values import check_fields, documented


@documented
@dataclass(frozen=True, slots=True)
class CohortSlide:
    """One slide of a cohort; options that are None are those of the whole batch."""

    path: str
    """Absolute path as the user knows it: links are kept."""
    real_path: str
    """The same with links followed; equal for two names of one slide."""
    origin: str
    """The source that names it, or a list with its row; for errors."""
    label: str
    """Name of its result, unless that is taken."""
    mpp: float | None = None
    """Microns per level-0 pixel."""
    bundle: str | None = None
    """Absolute path, or "default"."""
    name: str | None = None
    """Name of its result as required by a list."""
    roi: str | None = None
    """Absolute path of the file with its regions."""
    listed_in: str | None = None
    """Absolute path of the list that names it."""

    def __post_init__(self) -> None:
        check_fields(self)

    @staticmethod
    def of(path: Path, origin: str) -> CohortSlide:
        """A slide without options of its own."""
        return CohortSlide(str(path), os.path.realpath(path), origin, path.stem)

    @property
    def suffix(self) -> str:
        """The path's suffix in lower case."""
        return Path(self.path).suffix.lower()

    @property
    def own_options(self) -> tuple[float | str | None, ...]:
        """(mpp, bundle, name, roi) from a list."""
        return self.mpp, self.bundle, self.name, self.roi

    @property
    def has_own_options(self) -> bool:
        """True if a list gives it one of them."""
        return any(one is not None for one in self.own_options)

    def labelled(self, label: str) -> CohortSlide:
        """The same slide with another label."""
        return replace(self, label=label)
