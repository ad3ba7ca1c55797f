"""Contents of run.json as frozen dataclasses: inputs, options and state of a run."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from wsi_magnet.config import CELL_SIDES_PX, DEFAULT_CELL_PX, Precision, RunConfig
from wsi_magnet.errors import ConfigError
from wsi_magnet.labels import NOT_ANALYSED, LabelClass
from wsi_magnet.nets.spec import BundleSpec
from wsi_magnet.results.grading import ClassArea, Grade
from wsi_magnet.schema import Bounds, SchemaError, parse, to_json
from wsi_magnet.values import documented

State = Literal["running", "finished", "finished with errors"]

FORMAT = "wsi-magnet-run"

RUN_VERSION = 2
"""Version of run.json that is written. Version 1, of 0.1.0, is read as well; in its summary `scales` are `passes`."""

Pixels = Annotated[int, Bounds(1)]
Offset = Annotated[int, Bounds(0)]
Mpp = Annotated[float, Bounds(0, 1e6, open_below=True)]

PACKAGES = (
    "wsi-magnet",
    "torch",
    "numpy",
    "zarr",
    "numcodecs",
    "dask",
    "distributed",
    "openslide-python",
    "openslide-bin",
    "pillow",
)
"""Packages whose version can change a mask or its file."""


def versions() -> dict[str, str]:
    """Installed versions, by package."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class SlideRecord:
    """The slide as opened by the run."""

    path: str
    """Absolute path of the file."""
    identity: str
    """Hash of the slide's content, independent of the path."""
    size_wh: tuple[Pixels, Pixels]
    """Width and height of level 0, in pixels."""
    bounds_xywh: tuple[Offset, Offset, Pixels, Pixels]
    """The part of level 0 that was scanned, in level-0 pixels: left, top, width, height."""
    mpp_xy: tuple[Mpp, Mpp]
    """Microns per level-0 pixel, horizontally and vertically."""
    mpp_source: str = "unknown"
    """Source of the mpp, such as 'openslide.mpp-x'."""
    vendor: str = "unknown"
    """Vendor or format, as OpenSlide names it."""
    reader: str = "unknown"
    """Name of the reader."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """Metadata of the slide, as text."""

    @property
    def name(self) -> str:
        """File name, without its folder."""
        return Path(self.path).name


@documented
@dataclass(frozen=True, slots=True)
class BundleRecord:
    """The bundle that segmented the slide."""

    name: str
    sha256: str
    classes: tuple[LabelClass, ...]
    """Classes, in the order of the probabilities' channels."""
    description: Mapping[str, Any] = field(default_factory=dict)
    """Contents of the bundle's header, as written by `BundleSpec.to_json`."""

    def __post_init__(self) -> None:
        values = [one.value for one in self.classes]
        for one in self.classes:
            if not 0 <= one.value < NOT_ANALYSED or not all(0 <= channel <= 255 for channel in one.color):
                raise SchemaError(f"class {one.name!a} cannot have the value {one.value} and the colour {one.color}")
            if any("\ud800" <= letter <= "\udfff" for letter in one.name):
                raise SchemaError(f"class {one.name!a} is no text")  # half of a surrogate pair cannot be written
        if not values or len(values) != len(set(values)):
            raise SchemaError(f"classes cannot have the values {values}")
        if not isinstance(card := self.description.get("card") or {}, Mapping):
            raise SchemaError(f"bundle.card is {card!r:.60}, not texts by name")
        if type(self.cell_px) is not int or self.cell_px not in CELL_SIDES_PX:
            raise SchemaError(f"bundle.cell_px is {self.cell_px!r:.60}, not 128, 256 or 512")

    @property
    def cell_px(self) -> int:
        """Side of the cells, in pixels; 512 in records that lack it."""
        side: int = self.description.get("cell_px", DEFAULT_CELL_PX)
        return side

    @staticmethod
    def of(spec: BundleSpec, sha256: str) -> BundleRecord:
        """The record of a bundle whose file has that SHA-256."""
        classes = tuple(one.label for one in spec.classes)
        return BundleRecord(spec.name, sha256, classes, spec.to_json())

    def spec(self) -> BundleSpec:
        """The whole description. Raises BundleError if run.json does not have it."""
        return BundleSpec.from_json(self.description)


@documented
@dataclass(frozen=True, slots=True)
class ScaleRecord:
    """A scale of the run."""

    mpp: Mpp
    size_wh: tuple[Pixels, Pixels]
    """Width and height of the slide's bounds at this scale, in pixels."""
    slide_level: int = 0
    """Level of the slide that the scale is read from."""
    mask_level: int = 0
    """Level of the mask that the scale writes."""


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The contents of run.json."""

    state: State
    fingerprint: Mapping[str, str]
    """Everything on which the mask depends, as in `Fingerprint`."""
    slide: SlideRecord
    bundle: BundleRecord
    config: RunConfig
    scales: tuple[ScaleRecord, ...]
    """Coarse to fine."""
    notes: tuple[str, ...] = ()
    software: Mapping[str, str] = field(default_factory=dict)
    """Versions by package."""
    precision: Precision | None = None
    """Arithmetic chosen by the first worker; None in results made before there was a choice."""
    failures: tuple[str, ...] = ()
    """A line for each cell that could not be read."""
    finished: str | None = None
    """Time, ISO 8601, UTC; None while the run is not finished."""
    seconds_since_start: float | None = None
    summary: Mapping[str, Any] | None = None
    """The contents of summary.json; None while the run is not finished."""
    chunks: Mapping[str, Annotated[int, Bounds(0)]] = field(default_factory=dict)
    """Number of stored chunks of each image, by product; empty where it was not counted."""
    renamed_classes: Mapping[str, str] = field(default_factory=dict)
    """Present name of a class by each name that it had before `relabel`."""

    def __post_init__(self) -> None:
        if not self.scales:
            raise SchemaError("scales is empty")
        if self.config.mpp is not None and not 0 < self.config.mpp < 1e6:
            raise SchemaError(f"config.mpp cannot be {self.config.mpp}")
        if self.summary is not None:
            _check_summary(self.summary, {one.value for one in self.bundle.classes})

    @property
    def running(self) -> bool:
        """True if the run has not finished, whether or not a process works on it now."""
        return self.state == "running"

    @property
    def program_version(self) -> str:
        """Version of wsi-magnet that made the result."""
        return self.software.get("wsi-magnet", "unknown")

    def but(self, **changes: Any) -> RunRecord:
        """A copy with other values."""
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Plain values; those not known yet are left out."""
        values = {key: value for key, value in to_json(self).items() if value is not None}
        bundle = {"sha256": self.bundle.sha256, "name": self.bundle.name, "classes": values["bundle"]["classes"]}
        values["bundle"] = {**bundle, **self.bundle.description}
        return {"format": FORMAT, "version": RUN_VERSION, **values}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> RunRecord:
        """The inverse of `to_json`; reads version 1 as well, and ignores unknown keys.

        Raises SchemaError for a value that is missing or of another type.
        """
        values = dict(values)
        if isinstance(bundle := values.get("bundle"), dict):
            description = {key: value for key, value in bundle.items() if key != "sha256"}
            values["bundle"] = {**bundle, "description": description}
        summary = values.get("summary")
        if isinstance(summary, dict) and "passes" in summary:
            values["summary"] = _renamed(summary)
        try:
            record: RunRecord = parse(RunRecord, values, "", unknown="ignore")
        except ConfigError as error:
            raise SchemaError(f"config: {error}") from None
        return record


@dataclass(frozen=True, slots=True)
class _Grade(Grade):
    """Schema of the Gleason grading in a summary."""

    tumour_mm2: float


@dataclass(frozen=True, slots=True)
class _ScaleCounts:
    """Schema of a scale in a summary."""

    mpp: float
    cells: int
    cells_refined: int
    cells_unaffected: int = 0


@dataclass(frozen=True, slots=True)
class _Summary:
    """Schema of a summary, of which programs read these values."""

    mpp: float
    classes: tuple[ClassArea, ...]
    analysed_mm2: float
    not_analysed_mm2: float
    gleason: _Grade | None
    scales: tuple[_ScaleCounts, ...]
    tissue_share: float
    cells_not_analysed: int


def _check_summary(summary: Mapping[str, Any], values: Set[int]) -> None:
    """Raises SchemaError for a summary with areas that lacks a value, or has one of another type.

    values: of the bundle's classes, the only ones that have areas.
    """
    if "classes" not in summary:
        return
    found: _Summary = parse(_Summary, summary, "summary", unknown="ignore")
    if unknown := sorted({one.value for one in found.classes} - values):
        raise SchemaError(f"summary.classes has the value {unknown[0]}, which no class of the bundle has")


_RENAMED = {"passes": "scales", "cells_certain": "cells_unaffected"}
"""Keys of the summary in version 1, and their names since."""


def _renamed(value: Any) -> Any:
    """A summary of version 1 with today's keys."""
    if isinstance(value, dict):
        return {_RENAMED.get(key, key): _renamed(one) for key, one in value.items()}
    return [_renamed(one) for one in value] if isinstance(value, list) else value
