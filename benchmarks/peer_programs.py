"""The free network of tests/runs.py in other programs, each used as its documentation describes: one slide to labels.

    PYTHON -P benchmarks/peer_programs.py NAME SLIDE FOLDER

NAME is a key of PROGRAMS. PYTHON belongs to an environment in which that program is installed, so this module imports
nothing of the repository. FOLDER exists and is empty; the result goes there. Where a program writes no labels of its
own, they are made of what it gives, strip by strip, and kept as `labels.npy`: uint8 (H, W), 0 to 2 for the strongest
of red, green and blue.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

PATCH_PX = 512
"""Side of a patch, and the stride."""
MPP = 0.25
BATCH = 8
WORKERS = 2
"""Processes of a data loader that uses any."""
STRIP_PX = 512
"""Rows at a time where labels are made of logits: a copy of the whole would count as the other program's memory."""
MEAN, STD = (0.72, 0.55, 0.72), (0.1, 0.1, 0.1)
N_CLASSES = 3
GLASS_GREEN = 220
"""The generated glass, a lumen's too, is at least as bright in green, and whatever is stained is darker."""


class Free(nn.Module):
    """RGB (N, 3, H, W) from 0 to 255, to logits of the same shape: the normalised colours."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).mul(255).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).mul(255).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise colours, with three operations for each value."""
        return (x.float() - self.mean) / self.std


# ---- in memory, without tiles ------------------------------------------------------------------------------------


def dense(slide: Path, folder: Path) -> None:
    """Reference: all of level 0 in one array, and its labels in another.

    `tissue.npy`, bool (H, W), says where they are compared.
    """
    import openslide

    with openslide.OpenSlide(slide) as opened:
        whole = np.asarray(opened.read_region((0, 0), 0, opened.dimensions))[..., :3]
    normalised = (whole.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    np.save(folder / "labels.npy", normalised.argmax(-1).astype(np.uint8))
    np.save(folder / "tissue.npy", whole[..., 1] < GLASS_GREEN)


# ---- TIAToolbox --------------------------------------------------------------------------------------------------


def tiatoolbox(slide: Path, folder: Path, *, workers: int) -> None:
    """SemanticSegmentor to Zarr, labels only, of the whole slide."""
    from tiatoolbox.models.engine.io_config import IOSegmentorConfig  # type: ignore[import-not-found]
    from tiatoolbox.models.engine.semantic_segmentor import SemanticSegmentor  # type: ignore[import-not-found]
    from tiatoolbox.models.models_abc import ModelABC  # type: ignore[import-not-found]

    class Model(ModelABC):  # type: ignore[misc]
        """The network as the engine calls it."""

        def __init__(self) -> None:
            super().__init__()
            self.net = Free()

        def forward(self, x: Tensor) -> Tensor:
            """See `Free`."""
            logits: Tensor = self.net(x)
            return logits

        @staticmethod
        def infer_batch(model: nn.Module, batch_data: Tensor, *, device: str) -> npt.NDArray[np.float32]:
            """RGB uint8 (N, H, W, 3) to probabilities of the same shape."""
            with torch.inference_mode():
                logits = model(batch_data.to(device).permute(0, 3, 1, 2))
                return np.asarray(logits.softmax(1).permute(0, 2, 3, 1).numpy())

        def postproc(self, image: Any) -> Any:
            """Probabilities (H, W, 3) to labels."""
            return image.argmax(axis=-1)

    level_0 = {"units": "mpp", "resolution": MPP}
    settings = IOSegmentorConfig(
        input_resolutions=[level_0],
        output_resolutions=[level_0],
        save_resolution=level_0,
        patch_input_shape=(PATCH_PX, PATCH_PX),
        patch_output_shape=(PATCH_PX, PATCH_PX),
        stride_shape=(PATCH_PX, PATCH_PX),
    )
    engine = SemanticSegmentor(model=Model(), batch_size=BATCH, num_workers=workers, device="cpu", verbose=False)
    engine.run(
        [slide],
        patch_mode=False,
        ioconfig=settings,
        save_dir=folder / "result",
        output_type="zarr",
        auto_get_mask=False,
    )


# ---- MONAI -------------------------------------------------------------------------------------------------------


def monai_in_memory(slide: Path, folder: Path) -> None:
    """Patches straight from the file, logits merged in an array."""
    from monai.inferers.merger import AvgMerger  # type: ignore[import-not-found]

    merged = _monai(slide, AvgMerger)
    labels = (merged[0, :, rows].argmax(0).to(torch.uint8).numpy() for rows in _strips(merged.shape[2]))
    _save(folder, merged.shape[2:], labels)


def monai_in_zarr(slide: Path, folder: Path) -> None:
    """Patches straight from the file, logits merged in Zarr, a chunk a patch."""
    from monai.inferers.merger import ZarrAvgMerger

    chunks = (1, N_CLASSES, PATCH_PX, PATCH_PX)
    # The program does not delete these two.
    with tempfile.TemporaryDirectory() as temporary:
        passing = {"value_store": f"{temporary}/values.zarr", "count_store": f"{temporary}/counts.zarr"}
        merged = _monai(slide, ZarrAvgMerger, store=str(folder / "merged.zarr"), chunks=chunks, **passing)
    labels = (merged[0, :, rows].argmax(0).astype(np.uint8) for rows in _strips(merged.shape[2]))
    _save(folder, merged.shape[2:], labels)


def _monai(slide: Path, merger: type[Any], **options: Any) -> Any:
    """Logits (1, 3, H, W), an array of the merger's kind."""
    from monai.inferers.inferer import PatchInferer  # type: ignore[import-not-found]
    from monai.inferers.splitter import WSISlidingWindowSplitter  # type: ignore[import-not-found]

    splitter = WSISlidingWindowSplitter(PATCH_PX, reader="OpenSlide", level=0, dtype=np.uint8)
    with torch.inference_mode():
        return PatchInferer(splitter, merger, batch_size=BATCH, **options)(str(slide), Free())


# ---- LazySlide ---------------------------------------------------------------------------------------------------


def lazyslide(slide: Path, folder: Path) -> None:
    """Tiles of the whole slide, stitched to a map of three markers: its way to a value for every pixel.

    Its `seg.semantic` gives polygons only, here of millions of single pixels.
    """
    import lazyslide as zs  # type: ignore[import-not-found]
    from lazyslide_models.base import MarkerMapModel  # type: ignore[import-not-found]
    from wsidata import open_wsi  # type: ignore[import-not-found]

    class Model(MarkerMapModel):  # type: ignore[misc]
        """The network as the runner calls it."""

        channel_names = ("red", "green", "blue")

        def __init__(self) -> None:
            self.model = Free()

        def to(self, device: str) -> None:
            """Device of the network."""
            self.model.to(device)

        def get_transform(self) -> None:
            """No change: tiles are used as they were read."""

        def predict(self, image: Tensor) -> Tensor:
            """RGB uint8 (N, H, W, 3) to logits (N, 3, H, W)."""
            logits: Tensor = self.model(image.permute(0, 3, 1, 2))
            return logits

    wsi = open_wsi(slide, store=str(folder / "result.zarr"))
    zs.pp.tile_tissues(wsi, PATCH_PX, mpp=MPP, tissue_key=None, edge=True)
    options = {"batch_size": BATCH, "num_workers": WORKERS, "device": "cpu", "pbar": False}
    zs.tl.virtual_stain(wsi, Model(), image_key="logits", **options)
    logits = wsi.images["logits"]
    labels = (logits[:, rows].to_numpy().argmax(0).astype(np.uint8) for rows in _strips(logits.shape[1]))
    _save(folder, logits.shape[1:], labels)


# ---- logits to labels --------------------------------------------------------------------------------------------


def _strips(height: int) -> Iterator[slice]:
    return (slice(start, min(start + STRIP_PX, height)) for start in range(0, height, STRIP_PX))


def _save(folder: Path, size_hw: tuple[int, int], strips: Iterator[npt.NDArray[np.uint8]]) -> None:
    """`labels.npy`, strip by strip."""
    with (folder / "labels.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": tuple(size_hw)}
        np.lib.format.write_array_header_1_0(file, header)
        for strip in strips:
            file.write(strip.tobytes())


PROGRAMS: Mapping[str, Callable[[Path, Path], None]] = {
    "dense": dense,
    "tiatoolbox": partial(tiatoolbox, workers=0),
    "tiatoolbox-workers": partial(tiatoolbox, workers=WORKERS),
    "monai-memory": monai_in_memory,
    "monai-zarr": monai_in_zarr,
    "lazyslide": lazyslide,
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
