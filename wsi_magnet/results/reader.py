"""Results for reading: classes, areas, and the images of a result folder as lazy arrays."""

from __future__ import annotations

import html
import io
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, overload

import numpy as np
import numpy.typing as npt

from wsi_magnet.config import CHUNK_PX
from wsi_magnet.errors import ConfigError, ResultMismatchError, StoreError
from wsi_magnet.geometry import Box, Size, halved_until
from wsi_magnet.labels import NOT_ANALYSED, NOT_ANALYSED_CLASS, LabelClass
from wsi_magnet.results.alarms import Alarm, preliminary
from wsi_magnet.results.folder import Products, ResultFolder
from wsi_magnet.results.grading import ClassArea, areas_of, summarise
from wsi_magnet.results.pyramid import Pyramid, lazy_level, read_attributes
from wsi_magnet.results.record import RunRecord, SlideRecord
from wsi_magnet.scales import pixels_at, to_rectangle
from wsi_magnet.schema import Bounds
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location, Url, exists, names, to_location
from wsi_magnet.storage.lock import lock_owner
from wsi_magnet.values import check, documented

if TYPE_CHECKING:
    from PIL import Image

Points = npt.NDArray[np.float64]
"""float64 (n, 2): x and y."""

Pixels = npt.NDArray[np.uint8]

ResultState = Literal["running", "stopped", "finished", "finished with errors"]

CoordinateFrame = Literal["qupath", "level0"]
"""Origin of coordinates: the corner of the slide's bounds, to which QuPath's OpenSlide reader crops; or of level 0."""

_MOST_OFF_PX = 2.0
"""Most pixels by which the mask's size may differ from that of the canvas; by rounding it differs by less than one."""

_COUNT_PX = 4 * CHUNK_PX
"""Side of the boxes in which a mask is counted."""


@documented
@dataclass(frozen=True, slots=True)
class MaskGeometry:
    """Position of the mask's finest complete level on the slide."""

    mpp: float
    """Microns per pixel of the mask."""
    size: Size
    """Size of the mask; its last column and row may reach beyond the canvas by less than a pixel."""
    downsample_xy: tuple[float, float]
    """Level-0 pixels per pixel of the mask."""
    canvas: Size
    """The part of level 0 that was segmented, in level-0 pixels."""
    bounds_xy: tuple[int, int]
    """Upper left corner of the canvas on level 0."""
    slide: Size
    """Level 0 of the slide."""
    slide_mpp_xy: tuple[float, float]
    """Microns per level-0 pixel (x, y)."""

    def origin_xy(self, frame: CoordinateFrame) -> tuple[int, int]:
        """Upper left corner of the mask in a frame, in level-0 pixels."""
        return self.bounds_xy if frame == "level0" else (0, 0)

    def on_slide(self, points: Points, frame: CoordinateFrame) -> Points:
        """Convert points of the mask's pixel grid to level-0 pixels of a frame, clipped to the canvas."""
        placed = np.minimum(points * np.array(self.downsample_xy), self.canvas.wh) + self.origin_xy(frame)
        return np.asarray(placed, np.float64)


@documented
@dataclass(frozen=True, eq=False, slots=True)
class ResultRegion:
    """Pixels of a rectangle of the slide."""

    labels: Pixels
    """uint8 (rows, columns): 0 background or no tissue, 255 not analysed."""
    probabilities: Pixels | None
    """uint8 (classes, rows, columns), 255 = 1; None where the run did not keep them."""
    uncertainty: Pixels | None
    """uint8 (rows, columns), 255 = 1; None where the run did not keep it."""
    mpp_xy: tuple[float, float]
    """Microns per pixel, horizontally and vertically."""


class Result:
    """Result folder opened for reading; holds no pixels.

    The result of an unfinished run shows its finest complete scale.
    """

    def __init__(self, folder: Location, *, count: bool = True) -> None:
        """Open a result. Raises StoreError for a folder that is no result or has no complete scale yet,
        ResultMismatchError for a result that is damaged or that this version cannot read.

        count: False where the caller has opened the result before, so that its chunks need not be counted again.
        """
        record = ResultFolder(folder).read_run()
        if record is None:
            hint = results_inside(folder)
            raise StoreError(f"{folder} is no result folder: it has no run.json of this program{hint}")
        self.folder = folder
        self.record: RunRecord = record
        """The contents of run.json."""
        self.classes: tuple[LabelClass, ...] = record.bundle.classes
        """Classes, in the order of the probabilities' channels."""
        config, slide = record.config, record.slide
        sizes = halved_until([Size(*scale.size_wh) for scale in reversed(record.scales)], CHUNK_PX)
        products = Products(sizes, len(self.classes), config.ngff, config.tile_px, True, config.keep_uncertainty)
        images = products.pyramids(folder)
        self.mask_image = images["mask"]
        self.level = self._finest_complete()
        """Finest level of the mask that is complete, 0 in a finished result."""
        kept = {name: images[name] for name in config.kept if not record.running}
        self.probabilities_image = kept.get("probabilities")
        """The same levels as the mask; None where the run did not keep them."""
        self.uncertainty_image = kept.get("uncertainty")
        """The same levels as the mask; None where the run did not keep it."""
        mpp, (mpp_x, mpp_y) = record.scales[-1].mpp * 2**self.level, slide.mpp_xy
        x, y, width, height = slide.bounds_xywh
        self.geometry = MaskGeometry(
            mpp, sizes[self.level], (mpp / mpp_x, mpp / mpp_y), Size(width, height), (x, y), Size(*slide.size_wh),
            (mpp_x, mpp_y),
        )  # fmt: skip
        for image in (self.mask_image, *kept.values()):
            image.require(self.level)
            image.require_size(self.level)
        self._require_canvas()
        if count and self.finished:
            ResultFolder(folder).require_chunks(record)

    def _require_canvas(self) -> None:
        """Raise ResultMismatchError where the mask does not cover the canvas and nothing else."""
        mask, level0 = self.geometry, self.geometry.canvas
        expected = [length / downsample for length, downsample in zip(level0.wh, mask.downsample_xy, strict=True)]
        if any(abs(own - length) > _MOST_OFF_PX for own, length in zip(mask.size.wh, expected, strict=True)):
            raise ResultMismatchError(
                f"{self.folder / 'run.json'} is damaged: a mask of {mask.size} pixels at {mask.mpp:g} µm/px does not "
                f"cover the slide's bounds of {level0} pixels at {' x '.join(f'{m:g}' for m in mask.slide_mpp_xy)} "
                "µm/px; make the result again with `wsi-magnet run --restart`",
                cure="--restart",
            )

    def _finest_complete(self) -> int:
        if self.finished:
            return 0
        try:
            attributes = read_attributes(self.mask_image.spec.path)
            images = attributes.get("ome", attributes).get("multiscales")
            if images:
                return self._known_level(int(images[0]["datasets"][0]["path"]))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ResultMismatchError(
                f"{self.mask_image.spec.path} is damaged: its metadata name no level ({type(error).__name__}: "
                f"{error}); rebuild the result with `wsi-magnet run --restart`"
            ) from error
        raise StoreError(
            f"{self.folder}: no scale of the mask is complete yet; wait for the run, or resume it with `wsi-magnet run`"
        )

    def _known_level(self, level: int) -> int:
        if not 0 <= level < len(self.mask_image.spec.sizes):
            raise ValueError(f"level {level} of {len(self.mask_image.spec.sizes)}")
        return level

    # ---- description ------------------------------------------------------------------------------------------------

    @property
    def slide(self) -> SlideRecord:
        """The slide as opened by the run: path, identity, size, bounds, mpp."""
        return self.record.slide

    @property
    def name(self) -> str:
        """File name of the slide, without its folder."""
        return self.record.slide.name

    @property
    def slide_path(self) -> Path:
        """File of the slide, as given to the run."""
        return Path(self.record.slide.path)

    @property
    def identity(self) -> str:
        """Identity of the slide's content."""
        return self.record.slide.identity

    @cached_property
    def state(self) -> ResultState:
        """One of "running", "stopped", "finished" and "finished with errors", as found when it is first asked for.

        "stopped": not finished, and no process works on it. Raises StoreError.
        """
        if self.record.state == "running" and lock_owner(self.folder) is None:
            return "stopped"
        return self.record.state

    @property
    def running(self) -> bool:
        """True if the run is not finished, whether or not a process works on it now."""
        return self.record.running

    @property
    def finished(self) -> bool:
        """True if the run is finished, with or without errors."""
        return not self.record.running

    @property
    def mpp(self) -> float:
        """Microns per pixel of `labels[0]`."""
        return self.geometry.mpp

    @property
    def mpps(self) -> tuple[float, ...]:
        """Microns per pixel of each of `labels`."""
        return tuple(self.mpp_of(level) for level in self.levels)

    @property
    def levels(self) -> range:
        """Complete levels of the mask, by their number in the folder, finest first."""
        return range(self.level, len(self.mask_image.spec.sizes))

    def mpp_of(self, level: int) -> float:
        """Microns per pixel of a level of the folder."""
        return self.geometry.mpp * float(2 ** (level - self.level))

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Note for the user about an unfinished run; empty for a finished one."""
        found = f"the run is not finished: this is what it has found at {self.geometry.mpp:g} µm/px"
        return (found,) if self.running else ()

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Reasons to distrust the result, the gravest first; of an unfinished run, that it is preliminary."""
        if self.running:
            return (preliminary(self.mpp, self.record.scales[-1].mpp),)
        return Alarm.all_of(self.record.summary or {})

    def blocks(self, level: int, side_px: int = CHUNK_PX) -> Iterator[Box]:
        """Boxes of `side_px` that cover a level, row by row, cut at its edge."""
        return Box.of(self.mask_image.spec.sizes[level]).squares(side_px)

    # ---- areas -----------------------------------------------------------------------------------------------------

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        """Areas as in summary.json: counted by the run if it is finished, else counted in the mask.

        In a mask, 0 is not counted: background found by a network and glass that was not analysed are both 0.
        """
        if self.record.summary is not None and "classes" in self.record.summary:
            return self.record.summary
        counts = self.count_labels()
        del counts[0]
        return summarise(counts, self.classes, self.geometry.mpp, NOT_ANALYSED)

    @cached_property
    def areas(self) -> Mapping[str, ClassArea]:
        """Area of each class by its name: mm², and percent of the analysed tissue."""
        return areas_of(self.summary)

    @property
    def not_analysed_mm2(self) -> float:
        """Area that no scale could read, in mm²."""
        return float(self.summary["not_analysed_mm2"])

    def count_labels(self) -> Counter[int]:
        """Pixels by label in the stored part of the mask's finest complete level. Raises StoreError."""
        total = np.zeros(256, np.int64)
        for box in self.blocks(self.level, _COUNT_PX):
            if self.mask_image.stored(self.level, box):
                total += np.bincount(self.mask_image.read(self.level, box).ravel(), minlength=256)
        return Counter({value: int(count) for value, count in enumerate(total) if count})

    # ---- pixels ----------------------------------------------------------------------------------------------------

    @cached_property
    def labels(self) -> tuple[Any, ...]:
        """The mask: lazy dask arrays, uint8 (rows, columns), a level each, finest first, each half of the one before.

        0 is background or no tissue, 255 is not analysed, every other value a class of `classes`.
        """
        return self._lazy(self.mask_image)

    @cached_property
    def probabilities(self) -> tuple[Any, ...] | None:
        """Lazy dask arrays, uint8 (classes, rows, columns), 255 = 1, levels as `labels`; None where not kept."""
        return None if self.probabilities_image is None else self._lazy(self.probabilities_image)

    @cached_property
    def uncertainty(self) -> tuple[Any, ...] | None:
        """Lazy dask arrays, uint8 (rows, columns), 255 = 1, levels as `labels`; None where not kept."""
        return None if self.uncertainty_image is None else self._lazy(self.uncertainty_image)

    def _lazy(self, image: Pyramid) -> tuple[Any, ...]:
        return tuple(lazy_level(image.spec, level) for level in self.levels)

    def to_level0(self, xy: npt.ArrayLike, level: int = 0) -> Points:
        """Positions on a level of the mask as positions on level 0 of the slide.

        xy: (..., 2), x (column) and y (row) in pixels of `labels[level]`, counted from the outer corner of its first
        pixel, whose centre is (0.5, 0.5). Returns float64 (..., 2), in level-0 pixels from the corner of level 0, as
        OpenSlide counts them; neither rounded nor clipped. Raises ConfigError for another shape or level.
        """
        placed = _points(xy) * self._downsample_xy(level) + np.array(self.geometry.bounds_xy)
        return np.asarray(placed, np.float64)

    def from_level0(self, xy: npt.ArrayLike, level: int = 0) -> Points:
        """Positions on level 0 of the slide as positions on a level of the mask; the inverse of `to_level0`.

        `np.floor` of it is the pixel (column, row) of `labels[level]` that covers the position; one that was not
        segmented lies outside the array. Raises ConfigError for another shape or level.
        """
        return np.asarray((_points(xy) - np.array(self.geometry.bounds_xy)) / self._downsample_xy(level), np.float64)

    def _downsample_xy(self, level: int) -> Points:
        return np.array(self.geometry.downsample_xy) * 2.0 ** self._checked_level(level)

    def _checked_level(self, level: int) -> int:
        if not isinstance(level, int | np.integer) or isinstance(level, bool) or not 0 <= level < len(self.levels):
            raise ConfigError(f"level is {level!r:.60}, not between 0 and {len(self.levels) - 1}", arguments=("level",))
        return int(level)

    @overload
    def region(self, x: Box | Sequence[float], *, mpp: float | None = None) -> ResultRegion: ...

    @overload
    def region(self, x: float, y: float, width: float, height: float, mpp: float | None = None) -> ResultRegion: ...

    def region(
        self,
        x: float | Box | Sequence[float],
        y: float | None = None,
        width: float | None = None,
        height: float | None = None,
        mpp: float | None = None,
    ) -> ResultRegion:
        """Read a rectangle of the slide at any resolution; only the chunks that it touches are read.

        x, y, width, height: in level-0 pixels of the slide, from the corner of level 0, as OpenSlide counts them; or
        one box, as in `slide.read(box, mpp)`, which returns the same pixels in colour. mpp: microns per pixel of what
        is returned, by default those of the mask; it has round(width * slide mpp / mpp) columns, at least 1. Labels are
        those under each pixel's centre, of the coarsest level that is fine enough (coarser levels hold 2 x 2
        majorities); probabilities and uncertainty are means over each pixel's area, where pixels without tissue count
        as 0. Beyond the slide's bounds all is 0. Raises ConfigError for an empty rectangle or an mpp that is not
        positive, StoreError for what cannot be read.
        """
        mpp = self.mpp if mpp is None else mpp
        alone = y is None and width is None and height is None
        left, top, wide, high = to_rectangle(cast(Sequence[float], x if alone else (x, y, width, height)))
        sides = [(left, wide), (top, high)]
        counts = pixels_at((left, top, wide, high), self.slide.mpp_xy, mpp).wh
        level = max((i for i in self.levels if self.mpp_of(i) <= mpp * (1 + 1e-9)), default=self.level)
        factor, size = 2.0 ** (level - self.level), self.mask_image.spec.sizes[level]
        columns, rows = (
            (start - corner + np.linspace(0, length, n + 1)) / (downsample * factor)
            for (start, length), corner, downsample, n in zip(
                sides, self.geometry.bounds_xy, self.geometry.downsample_xy, counts, strict=True
            )
        )
        outer = Box(
            int(np.floor(columns[0])), int(np.floor(rows[0])), int(np.ceil(columns[-1])), int(np.ceil(rows[-1]))
        )
        box = outer.intersect(Box.of(size))
        columns, rows = columns - box.x0, rows - box.y0

        def averaged(image: Pyramid | None) -> Pixels | None:
            return None if image is None else _mean_of(_read(image, level, box), rows, columns)

        return ResultRegion(
            _nearest_of(_read(self.mask_image, level, box), rows, columns),
            averaged(self.probabilities_image),
            averaged(self.uncertainty_image),
            (wide * self.slide.mpp_xy[0] / counts[0], high * self.slide.mpp_xy[1] / counts[1]),
        )

    def thumbnail(self, longest_px: int = 512) -> Image.Image:
        """The mask in the classes' colours on white, RGB, its longer side at most `longest_px`; needs no slide.

        Raises ConfigError for a size below 1.
        """
        from PIL import Image

        longest_px = check(Annotated[int, Bounds(1)], longest_px, "longest_px")
        level = max((i for i in self.levels if max(self.mask_image.spec.sizes[i].wh) >= longest_px), default=self.level)
        labels = self.mask_image.read(level, Box.of(self.mask_image.spec.sizes[level]))
        palette = np.full((256, 3), 255, np.uint8)
        for one in (*self.classes, NOT_ANALYSED_CLASS):
            if one.value:
                palette[one.value] = one.color
        picture = Image.fromarray(palette[labels])
        picture.thumbnail((longest_px, longest_px))
        return picture

    def to_xarray(self, level: int = 0) -> Any:
        """A level as an `xarray.Dataset` of lazy arrays: labels, and probabilities and uncertainty where kept.

        Coordinates are pixel centres in µm from the corner of the slide's level 0, and class names. level: index into
        `labels`. Raises ConfigError for another level, and where xarray is not installed.
        """
        level = self._checked_level(level)
        try:
            xarray = import_module("xarray")
        except ImportError as error:
            raise ConfigError("to_xarray needs xarray; install it with: pip install xarray") from error
        spacing = self.mpps[level]
        rows, cols = self.labels[level].shape
        (x, y), (mpp_x, mpp_y) = self.geometry.bounds_xy, self.slide.mpp_xy
        values: dict[str, Any] = {"labels": (("y", "x"), self.labels[level])}
        if self.probabilities is not None:
            values["probabilities"] = (("class", "y", "x"), self.probabilities[level])
        if self.uncertainty is not None:
            values["uncertainty"] = (("y", "x"), self.uncertainty[level])
        coordinates: dict[str, Any] = {
            "x": ("x", x * mpp_x + (np.arange(cols) + 0.5) * spacing, {"units": "µm"}),
            "y": ("y", y * mpp_y + (np.arange(rows) + 0.5) * spacing, {"units": "µm"}),
            "class": [one.name for one in self.classes],
        }
        about = {"slide": self.name, "bundle": self.record.bundle.name, "mpp": spacing, "state": self.state}
        return xarray.Dataset(values, coordinates, {**about, "class_values": [one.value for one in self.classes]})

    # ---- notebooks -------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        names = ", ".join(one.name for one in self.classes)
        return f"<Result of {self.name}: {self.state}, {self.geometry.size} pixels at {self.mpp:g} µm/px, {names}>"

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.thumbnail().save(buffer, "PNG")
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        lines = [
            f'<tr><td><span style="display:inline-block;width:1em;height:1em;background:rgb{one.color}"></span> '
            f"{html.escape(one.name)}</td><td>{area.area_mm2:.3f} mm²</td><td>{area.percent:.1f} %</td></tr>"
            for one in self.classes
            if (area := self.areas.get(one.name))
        ]
        picture = b64encode(self._repr_png_()).decode()
        return (
            f"<div><b>{html.escape(self.name)}</b>: {self.state}, {self.geometry.size} pixels at {self.mpp:g} µm/px, "
            f"bundle {html.escape(self.record.bundle.name)}<table>{''.join(lines)}</table>"
            f'<img alt="mask" src="data:image/png;base64,{picture}"><div>Not for diagnosis.</div></div>'
        )


def open_result(path: str | Location) -> Result:
    """Open the result of a slide: `open_result("results/slide")`, or a URL, "s3://bucket/results/slide".

    Opening reads run.json and the images' metadata, and counts their stored chunks in a listing; it reads no pixels.
    The result of an unfinished run shows its finest complete scale. Raises StoreError for a folder that is no result or
    has no complete scale, ResultMismatchError for a result that is damaged or of a newer version.
    """
    check(str | PathLike | Url, path, "path")
    return Result(to_location(path))


def _points(xy: npt.ArrayLike) -> Points:
    """float64 (..., 2). Raises ConfigError."""
    try:
        points = np.asarray(xy, np.float64)
    except (TypeError, ValueError):
        raise ConfigError(f"xy is {xy!r:.60}, not numbers (..., 2)", arguments=("xy",)) from None
    if points.ndim == 0 or points.shape[-1] != 2:
        raise ConfigError(f"xy has the shape {points.shape}, not (..., 2)", arguments=("xy",))
    return points


def _read(image: Pyramid, level: int, box: Box) -> Pixels:
    """uint8 ([classes,] rows, columns); empty where the box is."""
    if box.empty:
        return np.zeros((*(() if image.spec.channels is None else (image.spec.channels,)), 0, 0), np.uint8)
    return image.read(level, box)


def _nearest_of(pixels: Pixels, rows: Points, columns: Points) -> Pixels:
    """uint8 (len(rows) - 1, len(columns) - 1): pixels under the centres between the edges, 0 outside."""
    found = np.zeros((len(rows) - 1, len(columns) - 1), np.uint8)
    y, x = (np.floor((edges[:-1] + edges[1:]) / 2).astype(np.int64) for edges in (rows, columns))
    inside_y, inside_x = (y >= 0) & (y < pixels.shape[0]), (x >= 0) & (x < pixels.shape[1])
    found[np.ix_(inside_y, inside_x)] = pixels[np.ix_(y[inside_y], x[inside_x])]
    return found


def _mean_of(pixels: Pixels, rows: Points, columns: Points) -> Pixels:
    """uint8 (..., len(rows) - 1, len(columns) - 1): mean over the area between the edges, 0 outside."""
    values = _mean_along(_mean_along(pixels.astype(np.float64), rows, -2), columns, -1)
    return np.asarray(np.floor(values + 0.5), np.uint8)


def _mean_along(values: npt.NDArray[np.float64], edges: Points, axis: int) -> npt.NDArray[np.float64]:
    values = np.moveaxis(values, axis, -1)
    length = values.shape[-1]
    total = np.concatenate([np.zeros((*values.shape[:-1], 1)), values.cumsum(-1)], -1)
    inside = np.clip(edges, 0, length)
    whole = np.minimum(inside.astype(np.int64), max(length - 1, 0))
    integral = total[..., whole] + ((inside - whole) * values[..., whole] if length else 0)
    return np.moveaxis(np.diff(integral, axis=-1) / np.diff(edges), -1, axis)


_MOST_EXAMINED, _MOST_NAMED = 100, 5
"""Names in a folder that are examined for results, and results that are named."""


def results_inside(folder: Location) -> str:
    """Hint that names results in a folder that is none itself."""
    with storage_errors(folder):
        inside = [] if isinstance(folder, Path) and not folder.is_dir() else names(folder)[:_MOST_EXAMINED]
        results = [name for name in inside if exists(folder / name / "run.json")]
    return f"; name one of the results in it: {', '.join(results[:_MOST_NAMED])}" if results else ""
