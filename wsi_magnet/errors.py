"""The error tree: every error this package raises on purpose descends from `WsiMagnetError`.

A message names the thing, the numbers and the cure in one line; the command line prints it as it is and exits with 1.
"""

from __future__ import annotations

from typing import Literal


class WsiMagnetError(Exception):
    """Something that the user can understand and mend; its text is one line."""


class ConfigError(WsiMagnetError, ValueError):
    """A setting that cannot be used, or settings that contradict each other."""


class SlideOpenError(WsiMagnetError, OSError):
    """A slide that no reader can open; the text gives each reader's reason."""


class SlideReadError(WsiMagnetError, OSError):
    """A region of an open slide that cannot be decoded."""

    def __init__(self, text: str, *, reason: str | None = None) -> None:
        """reason: the same without the slide's path and the region's position; by default `text`."""
        super().__init__(text)
        self.reason = reason or text


class MissingMppError(WsiMagnetError, ValueError):
    """A slide without a usable resolution, in its metadata or given."""


class BundleError(WsiMagnetError, ValueError):
    """A file that is not a bundle, or a bundle that does not fit."""


class AnnotationError(WsiMagnetError, ValueError):
    """An annotation that cannot be read, or whose labels are not known."""


class ManifestError(WsiMagnetError, ValueError):
    """A manifest or a list of slides, or a row of one, that cannot be used; the text names the row."""


class CohortError(WsiMagnetError, ValueError):
    """Slides that are not there, or whose results cannot lie in one folder."""


class TrainingError(WsiMagnetError):
    """A training that cannot be started, gone on with, or that has diverged."""


class StoreError(WsiMagnetError, OSError):
    """A result folder that cannot be written, read, or is full."""


class OutOfSpaceError(StoreError):
    """A disk that is full, or a quota that is spent: no single slide's fault."""


class OutageError(StoreError):
    """A store or a share that does not answer at the moment: no single slide's fault."""


class ResultMismatchError(WsiMagnetError):
    """A result folder made from another slide, bundle or configuration, or that cannot be used as it is."""

    def __init__(
        self, text: str, *, cure: Literal["--restart", "--overwrite"] | None = None, stays: bool = False
    ) -> None:
        """cure: the option with which a run would go ahead. stays: True where a result is there, and is kept."""
        super().__init__(text)
        self.cure, self.stays = cure, stays


class ResultBusyError(WsiMagnetError):
    """A result folder on which another run is working."""


class DeviceError(WsiMagnetError, RuntimeError):
    """A GPU that failed while it computed."""


class ClusterError(WsiMagnetError, ConnectionError):
    """A Dask cluster that cannot be reached, or workers that are lost or do not fit."""
