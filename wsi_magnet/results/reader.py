"""A result folder as something to export: its mask, its classes, and where both lie on the slide; holds no pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wsi_magnet.config import CELL_PX, RunConfig
from wsi_magnet.errors import ResultMismatchError, StoreError
from wsi_magnet.geometry import Box, Size, halved_until
from wsi_magnet.labels import LabelClass
from wsi_magnet.results.checks import check_run
from wsi_magnet.results.folder import Products, ResultFolder
from wsi_magnet.results.pyramid import Pyramid, read_attributes
from wsi_magnet.storage.location import Location

Points = npt.NDArray[np.float64]
"""float64 (n, 2): x and y."""

CoordinateFrame = Literal["qupath", "level0"]
"""Where (0, 0) is: the corner of the slide's bounds, to which QuPath's OpenSlide reader crops; or of level 0."""


@dataclass(frozen=True, slots=True)
class Placement:
    """How pixels of the mask's finest level lie on the slide."""

    mpp: float
    """Microns per pixel of the mask."""
    size: Size
    """Of the mask; its last column and row may reach beyond the canvas by less than a pixel."""
    downsample_xy: tuple[float, float]
    """Level-0 pixels per pixel of the mask."""
    canvas: Size
    """The part of level 0 that was segmented, in level-0 pixels."""
    bounds_xy: tuple[int, int]
    """Where its corner lies on level 0."""
    slide: Size
    """Level 0 of the slide."""
    slide_mpp_xy: tuple[float, float]

    def origin_xy(self, frame: CoordinateFrame) -> tuple[int, int]:
        """Where the mask's corner lies in a frame, in level-0 pixels."""
        return self.bounds_xy if frame == "level0" else (0, 0)

    def on_slide(self, points: Points, frame: CoordinateFrame) -> Points:
        """From the mask's pixel grid into a frame, in level-0 pixels; nothing reaches beyond the canvas."""
        placed = np.minimum(points * np.array(self.downsample_xy), self.canvas.wh) + self.origin_xy(frame)
        return np.asarray(placed, np.float64)


class ResultSource:
    """A result folder, finished or not: of a run that still goes on, what its finest complete scale shows."""

    def __init__(self, folder: Location) -> None:
        """Raises StoreError for what is no result or has no complete scale yet, ResultMismatchError for what this
        version cannot read.
        """
        run = ResultFolder(folder).read_run()
        if run is None:
            raise StoreError(f"{folder} is no result folder: it has no run.json of this program")
        self.folder = folder
        self.run: dict[str, Any] = run
        try:
            self._read(run)
        except (LookupError, TypeError, ValueError) as error:
            raise ResultMismatchError(
                f"{folder / 'run.json'} is damaged ({type(error).__name__}: {error}); make the result anew with "
                "`wsi-magnet run --restart`"
            ) from error
        self.mask.require(self.level)

    def _read(self, run: dict[str, Any]) -> None:
        check_run(run)
        config, slide, finest = RunConfig.from_json(run["config"]), run["slide"], run["scales"][-1]
        self.slide_path = Path(slide["path"])
        self.identity: str = slide["identity"]
        self.running: bool = run["state"] == "running"
        self.classes = tuple(LabelClass(c["value"], c["name"], tuple(c["color"])) for c in run["bundle"]["classes"])
        sizes = halved_until([Size(*scale["size_wh"]) for scale in reversed(run["scales"])], CELL_PX)
        products = Products(sizes, len(self.classes), config.ngff, config.tile_px, True, config.keep_uncertainty)
        pyramids = {spec.path.name.split(".")[0]: Pyramid(spec) for spec in products.specs(self.folder)}
        self.mask = pyramids["mask"]
        self.level = self._finest_complete()
        """Finest level of the mask that is complete, 0 in a finished result."""
        self.probabilities = pyramids["probabilities"] if config.keep_probabilities and not self.running else None
        """uint8 (classes, rows, columns), the same levels; None where the run did not keep them."""
        self.uncertainty = pyramids["uncertainty"] if config.keep_uncertainty and not self.running else None
        """uint8 (rows, columns); None where the run did not keep it."""
        mpp, mpp_xy = finest["mpp"] * 2**self.level, slide["mpp_xy"]
        x, y, width, height = slide["bounds_xywh"]
        self.placement = Placement(
            mpp,
            self.mask.spec.sizes[self.level],
            (mpp / mpp_xy[0], mpp / mpp_xy[1]),
            Size(width, height),
            (x, y),
            Size(*slide["size_wh"]),
            (mpp_xy[0], mpp_xy[1]),
        )

    def _finest_complete(self) -> int:
        attributes = read_attributes(self.mask.spec.path)
        images = attributes.get("ome", attributes).get("multiscales")
        if not images:
            raise StoreError(
                f"{self.folder}: no scale of the mask is complete yet; wait for the run, or go on with it by "
                "`wsi-magnet run`"
            )
        return int(images[0]["datasets"][0]["path"])

    @property
    def name(self) -> str:
        """Of the slide, without its folder."""
        return self.slide_path.name

    @property
    def levels(self) -> range:
        """The complete levels of the mask, finest first."""
        return range(self.level, len(self.mask.spec.sizes))

    def mpp(self, level: int) -> float:
        """Microns per pixel of a level."""
        return self.placement.mpp * float(2 ** (level - self.level))

    @property
    def unfinished(self) -> tuple[str, ...]:
        """What a user should know of a run that still goes on; nothing of one that has ended."""
        found = f"the run is not finished: this is what it has found at {self.placement.mpp:g} µm/px"
        return (found,) if self.running else ()

    def blocks(self, level: int, side_px: int = CELL_PX) -> Iterator[Box]:
        """The level in squares of `side_px`, row by row, cut at its edge."""
        return Box.of(self.mask.spec.sizes[level]).squares(side_px)
