"""What a user decides, as frozen values: made once at the edge, handed on whole."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from wsi_magnet.errors import ConfigError

Ngff = Literal["0.4", "0.5"]
Precision = Literal["auto", "fp32", "mixed", "bf16", "fp16"]
Refine = Literal["all", "auto"] | float

_ADDRESS = re.compile(r"inproc://.+|((?:tcp|tls|ucx|ucxx|wss?)://)?(\[[0-9a-fA-F:.]+\]|[^\s/:\[\]]+):\d{1,5}")
"""Of a Dask scheduler; without a port Dask would raise its own errors, some of them while the program ends."""

CELL_PX = 512
"""Side of a cell: what is tissue, what is refined and what has failed is decided for squares of this size on each
scale's fixed grid, so none of it depends on how the slide is cut into tiles."""

TILE_PX = (512, 1024, 2048, 4096)
"""Tiles are whole numbers of cells, and no larger than a worker's memory can hold several of."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """All that the mask depends on besides the slide and the bundle."""

    mpp: float | None = None
    """Microns per level-0 pixel, where the slide does not say or says it wrongly."""
    refine: Refine = "all"
    """Which tissue cells of each scale after the first are refined: "all", "auto" (those whose mean uncertainty is
    above the bundle's threshold) or a fraction of them all, spent where over the whole slide it clears up most
    (MagNet-Fast, generalised)."""
    tissue: bool = True
    """Only cells with tissue are analysed; False takes the whole slide, for stains the tissue finder does not know."""
    tile_px: int = 1024
    """Side of a tile; the mask does not depend on it, the folder's layout may (with 0.5 a tile is a shard)."""
    ngff: Ngff = "0.4"
    """OME-Zarr version: 0.4 (Zarr v2) opens in QuPath 0.6 and 0.7; 0.5 (Zarr v3) has sharding."""
    keep_probabilities: bool = False
    """Keep the finest scale's probabilities as probabilities.ome.zarr."""
    keep_uncertainty: bool = False
    """Write the uncertainty as uncertainty.ome.zarr."""
    batch_size: int | None = None
    """Patches a forward pass; None is 1 on CPU and 4 to 16 on CUDA, by its memory."""
    precision: Precision = "auto"
    """Arithmetic of the networks; "auto" is the quickest that changes less than a thousandth of the labels: fp16 on
    CUDA, "mixed" (the backbone in fp32, the refinement modules in bf16) on processors that have bf16, elsewhere fp32.
    The first worker's decides for all of a run."""

    def __post_init__(self) -> None:
        if self.tile_px not in TILE_PX:
            raise ConfigError(f"--tile {self.tile_px} is not one of {', '.join(map(str, TILE_PX))}")
        if not isinstance(self.refine, str) and not 0 <= self.refine <= 1:
            raise ConfigError(f"--refine {self.refine:g} is not a fraction between 0 and 1")
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"--batch-size {self.batch_size} is not at least 1")

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the images that are kept beside the mask."""
        wanted = {"probabilities": self.keep_probabilities, "uncertainty": self.keep_uncertainty}
        return tuple(name for name, keep in wanted.items() if keep)

    def to_json(self) -> dict[str, Any]:
        """Plain values for run.json."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Execution:
    """Where the work is done; the mask does not depend on it, so a run may be resumed with another."""

    device: str = "auto"
    """"auto", "cpu", "cuda" or "cuda:N"; each worker resolves "auto" for itself."""
    workers: int | None = None
    """Worker processes on this machine; None works in this process."""
    scheduler: str | None = None
    """Address of a running Dask scheduler; its workers must see the slide, the bundle and the output folder."""
    cluster: str | None = None
    """A YAML file that describes a Dask cluster, which the run makes and lets go of; they must see the same."""

    def __post_init__(self) -> None:
        kind, _, number = self.device.partition(":")
        if kind not in ("auto", "cpu", "cuda") or (":" in self.device and not (kind == "cuda" and number.isdigit())):
            raise ConfigError(f"--device {self.device!r} is not auto, cpu, cuda or cuda:N")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"--workers {self.workers} is not at least 1")
        if self.scheduler is not None and not _ADDRESS.fullmatch(self.scheduler):
            raise ConfigError(f"--scheduler {self.scheduler!r} is not an address, such as tcp://HOST:8786")
        if sum(one is not None for one in (self.workers, self.scheduler, self.cluster)) > 1:
            raise ConfigError(
                "--workers starts processes here, --scheduler uses running ones, --cluster makes them; pass one of them"
            )


def parse_refine(text: str) -> Refine:
    """What --refine says: "all", "auto" or a fraction, from the command line; raises ConfigError."""
    if text in ("all", "auto"):
        return cast(Refine, text)
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--refine {text!r} is not all, auto or a fraction between 0 and 1") from None
