"""MagNet on whole slides: progressive, coarse-to-fine segmentation of gigapixel pathology images.

The names below are all that most programs need. They are imported at their first use, so that the command line
answers at once and a program that only opens slides does not pay for PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from wsi_magnet._version import __version__

if TYPE_CHECKING:
    from wsi_magnet.cohort.batch import segment_cohort
    from wsi_magnet.cohort.discovery import find_slides
    from wsi_magnet.cohort.options import CohortOptions
    from wsi_magnet.config import Execution, RunConfig
    from wsi_magnet.errors import WsiMagnetError
    from wsi_magnet.inference.image import segment_image
    from wsi_magnet.nets.bundle import load_bundle
    from wsi_magnet.results.reader import open_result
    from wsi_magnet.segment.slide import segment_slide
    from wsi_magnet.slides.registry import open_slide

__all__ = [
    "CohortOptions",
    "Execution",
    "RunConfig",
    "WsiMagnetError",
    "__version__",
    "find_slides",
    "load_bundle",
    "open_result",
    "open_slide",
    "segment_cohort",
    "segment_image",
    "segment_slide",
]

_HOME = {
    "CohortOptions": "wsi_magnet.cohort.options",
    "Execution": "wsi_magnet.config",
    "RunConfig": "wsi_magnet.config",
    "WsiMagnetError": "wsi_magnet.errors",
    "find_slides": "wsi_magnet.cohort.discovery",
    "load_bundle": "wsi_magnet.nets.bundle",
    "open_result": "wsi_magnet.results.reader",
    "open_slide": "wsi_magnet.slides.registry",
    "segment_cohort": "wsi_magnet.cohort.batch",
    "segment_image": "wsi_magnet.inference.image",
    "segment_slide": "wsi_magnet.segment.slide",
}
"""The module of each name (PEP 562)."""


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
