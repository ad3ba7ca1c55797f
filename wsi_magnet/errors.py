"""The error tree: every error this package raises on purpose descends from `WsiMagnetError`.

A message names the thing, the numbers and the remedy in one line; the command line prints it and exits with 1.
"""

from __future__ import annotations

from typing import Literal


class WsiMagnetError(Exception):
    """An error that the user can understand and remedy; its text is one line."""


class ConfigError(WsiMagnetError, ValueError):
    """A setting that cannot be used, or settings that contradict each other."""

    def __init__(self, text: str, *, arguments: tuple[str, ...] = ()) -> None:
        """arguments: names, in the text, of what is wrong; the command line puts its options in their place."""
        super().__init__(text)
        self.arguments = arguments


class SlideOpenError(WsiMagnetError, OSError):
    """A slide that no reader can open; the text has each reader's reason."""


class SlideReadError(WsiMagnetError, OSError):
    """A region of an open slide that cannot be decoded."""

    def __init__(self, text: str, *, reason: str | None = None) -> None:
        """reason: the text without the slide's path and the region's position; by default `text`."""
        super().__init__(text)
        self.reason = reason or text


class MissingMppError(WsiMagnetError, ValueError):
    """A slide without a usable resolution, neither in its metadata nor given by the user."""

    def __init__(self, text: str, *, stated: str = "") -> None:
        """stated: the resolution in its metadata that no slide can have, with its source; "" without one."""
        super().__init__(text)
        self.stated = stated


class BundleError(WsiMagnetError, ValueError):
    """A file that is no bundle, or a bundle that does not fit."""


class AnnotationError(WsiMagnetError, ValueError):
    """An annotation that cannot be read, or whose labels are unknown."""


class ManifestError(WsiMagnetError, ValueError):
    """A manifest or a list of slides, or a row of one, that cannot be used; the text names the row."""


class CohortError(WsiMagnetError, ValueError):
    """Slides that do not exist, or whose results cannot lie in one folder."""


class TrainingError(WsiMagnetError):
    """A training that cannot be started or resumed, or that has diverged."""


class StoreError(WsiMagnetError, OSError):
    """A result folder that cannot be written, read, or is full."""


class OutOfSpaceError(StoreError):
    """A full disk or an exhausted quota: the fault of no single slide."""


class OutageError(StoreError):
    """A store or a network share that does not answer at the moment: the fault of no single slide."""


class ResultMismatchError(WsiMagnetError):
    """A result folder made from another slide, bundle or configuration, or that cannot be used as it is."""

    def __init__(
        self, text: str, *, cure: Literal["--restart", "--overwrite"] | None = None, stays: bool = False
    ) -> None:
        """cure: option with which the run would start. stays: True if there is a result, which is kept."""
        super().__init__(text)
        self.cure, self.stays = cure, stays


class ResultBusyError(WsiMagnetError):
    """A result folder in which another run is working."""


class DeviceError(WsiMagnetError, RuntimeError):
    """A GPU that failed during computation."""


class ClusterError(WsiMagnetError, ConnectionError):
    """A Dask cluster that cannot be reached, or workers that are lost or unsuitable."""
