"""A slide that is to be segmented, and what was said of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SlideJob:
    """One slide of a cohort; values that are None are the batch's."""

    slide: str
    """Absolute, links kept: the name that the user knows."""
    real: str
    """The same, links followed: where this is equal, it is one slide."""
    origin: str
    """Who named it, for errors: a source, or a list with its row."""
    label: str
    """What its result is named after, where that is free."""
    mpp: float | None = None
    bundle: str | None = None
    """Absolute path, or "default"."""
    name: str | None = None
    """What a list wants its result to be named."""
    listed_in: str | None = None
    """The list that named it: an absolute path."""

    @staticmethod
    def of(path: Path, origin: str) -> SlideJob:
        """A slide of which nothing more is said."""
        return SlideJob(str(path), os.path.realpath(path), origin, path.stem)

    @property
    def suffix(self) -> str:
        """Of the slide, in lower case."""
        return Path(self.slide).suffix.lower()

    @property
    def wishes(self) -> tuple[float | None, str | None, str | None]:
        """What a list said of it."""
        return self.mpp, self.bundle, self.name

    @property
    def is_plain(self) -> bool:
        """True where no list said anything of it."""
        return self.wishes == (None, None, None)

    def labelled(self, label: str) -> SlideJob:
        """The same, with its result named after something else."""
        return replace(self, label=label)
