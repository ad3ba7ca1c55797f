"""Options of a run as frozen values: made once from the command line, then handed on whole."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, cast

from wsi_magnet.errors import ConfigError
from wsi_magnet.schema import Bounds
from wsi_magnet.values import check_fields, documented

LEAST_MPP, MOST_MPP = 0.01, 100.0
"""Range of a microscope's image, in microns per pixel: the finest scanners have 0.1, an overview of a whole slide some
30. Metadata may also have 0, -1 and 1000, which are no resolutions."""

Mpp = Annotated[float, Bounds(LEAST_MPP, MOST_MPP)]
Count = Annotated[int, Bounds(1)]
Ngff = Literal["0.4", "0.5"]
Precision = Literal["auto", "fp32", "mixed", "bf16", "fp16"]
Refine = Literal["all", "auto"] | Annotated[float, Bounds(0, 1)]

_ADDRESS = re.compile(r"inproc://.+|((?:tcp|tls|ucx|ucxx|wss?)://)?(\[[0-9a-fA-F:.]+\]|[^\s/:\[\]]+):\d{1,5}")
"""Address of a Dask scheduler. Without a port Dask raises errors of its own, some of them while the program ends."""

CELL_SIDES_PX = (128, 256, 512)
"""Sides that a bundle can give its cells, in pixels. Tissue, refinement and failures are decided per cell of each
scale's fixed grid, so none of them depends on how the slide is divided into tiles."""

DEFAULT_CELL_PX = 512
"""Side of a bundle's cells unless it has another one."""

CHUNK_PX = 512
"""Side of a stored chunk, in pixels, and of the blocks in which images of a result are read. A pyramid ends with a
level that fits in a chunk. Files of that size are quick to read, and cells of any side are stored in them."""

MAGNET = "MagNet"
"""The method of a run unless another one is chosen."""

MAGNET_FAST = "MagNet-Fast"
"""MagNet on a share of the cells (paper, section 3.4)."""

TILE_PX = (512, 1024, 2048, 4096)
"""Sides of tiles, in pixels: whole numbers of chunks and of cells of every side, and small enough for several tiles in
a worker's memory."""


_AREA_FILES = ("roi", "exclude", "tissue_mask")


@documented
@dataclass(frozen=True, slots=True)
class RunConfig:
    """Options of a run that its workers need and run.json records, besides the slide and the bundle.

    Raises ConfigError, naming the field, for a value that is not allowed.
    """

    mpp: Mpp | None = None
    """Microns per level-0 pixel, for a slide whose metadata have none or a wrong one."""
    refine: Refine = "auto"
    """Tissue cells to refine at the scales after the first: "auto" (those whose mean uncertainty is above the bundle's
    threshold), "all", or a fraction of them, spent where it resolves most uncertainty over the whole slide
    (MagNet-Fast, paper section 3.4, generalised)."""
    tissue: bool = True
    """True: analyse only cells with tissue. False: the whole slide, for stains other than haematoxylin and eosin."""
    tile_px: int = 1024
    """Side of a tile in pixels: 512, 1024, 2048 or 4096. The mask does not depend on it; with OME-Zarr 0.5 a tile is a
    shard."""
    ngff: Ngff = "0.4"
    """Version of OME-Zarr: 0.4 (Zarr v2) opens in QuPath 0.6 and 0.7; 0.5 (Zarr v3) has sharding."""
    keep_probabilities: bool = False
    """Keep the finest scale's probabilities as probabilities.ome.zarr."""
    keep_uncertainty: bool = False
    """Write the uncertainty as uncertainty.ome.zarr."""
    batch_size: Count | None = None
    """Patches per forward pass; None: 1 on a CPU, 4 to 16 on CUDA, depending on its memory."""
    precision: Precision = "auto"
    """Arithmetic of the networks. "auto" is the fastest that changes less than a thousandth of the labels: fp16 on
    CUDA, "mixed" (backbone in fp32, refinement modules in bf16) on CPUs with bf16, fp32 on others. The choice of the
    first worker holds for the whole run."""
    method: str = MAGNET
    """Method of the poster, or of another package. Methods without scales between the coarsest and the finest refine
    all tissue cells unless `refine` is a fraction; see `methods.registry`."""
    roi: str | None = None
    """File with the regions to analyse: QuPath GeoJSON, ASAP or ImageScope XML, HistomicsUI JSON, or a label image
    (PNG, TIFF, OME-Zarr), whose pixels other than 0 are regions by their value. None: the whole slide."""
    roi_classes: tuple[str, ...] = ()
    """Classes, names or values of the regions of `roi` to analyse; empty: all."""
    exclude: str | None = None
    """File with areas to leave out, of the same kinds."""
    tissue_mask: str | None = None
    """File with the tissue, of the same kinds, in place of the tissue step."""

    def __post_init__(self) -> None:
        for name in _AREA_FILES:
            if isinstance(path := getattr(self, name), str | os.PathLike):  # absolute: it holds in any folder
                object.__setattr__(self, name, os.path.abspath(os.path.expanduser(os.fspath(path))))
        check_fields(self)
        if self.roi_classes and self.roi is None:
            raise ConfigError("roi_classes needs roi, the file that has them", arguments=("roi_classes", "roi"))
        if self.tissue_mask is not None and not self.tissue:
            raise ConfigError(
                "tissue_mask and tissue=False exclude each other; pass one of them", arguments=("tissue_mask", "tissue")
            )
        if self.tile_px not in TILE_PX:
            raise ConfigError(f"tile_px is {self.tile_px}, not 512, 1024, 2048 or 4096", arguments=("tile_px",))

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the images to keep beside the mask."""
        wanted = {"probabilities": self.keep_probabilities, "uncertainty": self.keep_uncertainty}
        return tuple(name for name, keep in wanted.items() if keep)

    @property
    def area_files(self) -> dict[str, str]:
        """Files with areas, by option."""
        return {name: path for name in _AREA_FILES if (path := getattr(self, name)) is not None}

    def to_json(self) -> dict[str, Any]:
        """Plain values for run.json; without files of areas where there are none."""
        values = asdict(self)
        for name in _AREA_FILES:
            if values[name] is None:
                del values[name]
        if values["roi_classes"]:
            values["roi_classes"] = list(values["roi_classes"])
        else:
            del values["roi_classes"]
        return values


@documented
@dataclass(frozen=True, slots=True)
class Execution:
    """Device and workers of a run. The mask does not depend on them, so a run may be resumed with others.

    Raises ConfigError, naming the field, for a value that is not allowed.
    """

    device: str = "auto"
    """One of "auto", "cpu", "cuda" and "cuda:N"; each worker resolves "auto" for itself."""
    workers: Count | None = None
    """Number of worker processes on this machine; None: threads of this process."""
    scheduler: str | None = None
    """Address of a running Dask scheduler, whose workers can read the slide and the bundle and write the output."""
    cluster: str | None = None
    """YAML file that describes a Dask cluster, which the run starts and closes; its workers need the same access."""
    dashboard: bool = False
    """Start Dask's dashboard with workers of this machine, which takes a second or two, and show its address."""

    def __post_init__(self) -> None:
        if isinstance(self.cluster, os.PathLike):
            object.__setattr__(self, "cluster", os.fspath(self.cluster))
        check_fields(self)
        kind, _, number = self.device.partition(":")
        if kind not in ("auto", "cpu", "cuda") or (":" in self.device and not (kind == "cuda" and number.isdigit())):
            raise ConfigError(f"device is {self.device!r}, not auto, cpu, cuda or cuda:N", arguments=("device",))
        if self.scheduler is not None and not _ADDRESS.fullmatch(self.scheduler):
            raise ConfigError(
                f"scheduler is {self.scheduler!r}, not an address such as tcp://HOST:8786", arguments=("scheduler",)
            )
        if sum(one is not None for one in (self.workers, self.scheduler, self.cluster)) > 1:
            raise ConfigError(
                "workers, scheduler and cluster exclude each other; pass one of them",
                arguments=("workers", "scheduler", "cluster"),
            )


def parse_refine(text: str) -> Refine:
    """Parse the value of --refine: "auto", "all" or a fraction. Raises ConfigError."""
    if text in ("all", "auto"):
        return cast(Refine, text)
    try:
        return float(text)
    except ValueError:
        raise ConfigError(
            f"refine is {text!r}, not auto, all or a fraction between 0 and 1", arguments=("refine",)
        ) from None
