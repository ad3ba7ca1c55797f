"""The tissue step on real and generated slides: accuracy with and without it, and glass in the classes.

    WSI_MAGNET_TEST_DATA=folder python -m benchmarks.tissue [--bundle FILE] [--crops 50] [--only mosaics crops glass]

- Mosaics: mIoU of glands and the rest against the annotation, with the tissue step and with `--no-tissue`.
- Crops: the same for squares cut at random from held-back tiles, whose edges run through lumens.
- Glass: the share of the labelled area that is bare glass by a test of its own (`bare_glass`), which shares no code
  with the tissue step: bright, without colour, connected with the glass at the slide's edge.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from scipy import ndimage

from benchmarks.record import Aim, Measurement, Table, benchmark
from tests.slides_made import write_stained_slide
from wsi_magnet.config import RunConfig
from wsi_magnet.geometry import Size
from wsi_magnet.labels import NOT_ANALYSED
from wsi_magnet.metrics.confusion import confusion_matrix, mean_iou
from wsi_magnet.results.reader import Result
from wsi_magnet.scales import scale_at
from wsi_magnet.segment.slide import segment_slide
from wsi_magnet.slides.read import read_whole
from wsi_magnet.slides.registry import open_slide

Labels = npt.NDArray[np.uint8]

RINGS_MPP = 0.93
GLAND, NOT_ANNOTATED = 1, 255
"""Values of the RINGS masks; 0 is the rest."""

MOSAICS = ("P1_D5_3_12_tiles4-5-6", "P1_D5_9_13_tiles4-6")
HELD_BACK = ("P1_D5_9_13_4", "P1_D5_9_13_6", "P1_D4_5_14_3")
"""Tiles of the regions that the shipped bundle was not trained on."""

SLIDES = ("slides/CMU-1-Small-Region.svs", "slides/BS9_HE2.tif")
GENERATED = (Size(6000, 4500), Size(9000, 5000))

CROP_UM = (300.0, 900.0)
"""Least and most side of a crop."""

MOST_COLOUR, MOST_DARKER = 12, 14
"""Bare glass, in grey levels: largest difference between its channels, and how much darker than the slide's own."""

THIN_UM = 6.0
"""Width below which white is a gap between cells."""


def main() -> None:
    """Measure every part, a row each."""
    benchmark("tissue", "The tissue step", measure_all, add_options)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Bundle, and the parts to measure."""
    parser.add_argument("--bundle", help="default: the shipped one")
    parser.add_argument("--gland", type=int, default=6, help="label of glands in the bundle")
    parser.add_argument("--crops", type=int, default=50)
    parser.add_argument("--refine", default="auto")
    parser.add_argument(
        "--only", nargs="+", choices=["mosaics", "crops", "glass"], default=["mosaics", "crops", "glass"]
    )


@dataclass(frozen=True, slots=True)
class Segmenter:
    """Segments slides in a scratch folder."""

    folder: Path
    bundle: str | None
    refine: str

    def labels(self, slide: Path, mpp: float | None, *, tissue: bool) -> Result:
        """The result of a slide."""
        out = self.folder / ("tissue" if tissue else "all")
        config = RunConfig(mpp=mpp, refine=self.refine, tissue=tissue)  # type: ignore[arg-type]  # of the command line
        summary = segment_slide(slide, out, bundle=self.bundle, config=config, existing="overwrite")
        return Result(summary.folder)


def measure_all(options: argparse.Namespace) -> Measurement:
    """Measure the chosen parts."""
    data = Path(os.environ["WSI_MAGNET_TEST_DATA"])
    rows: list[list[str]] = []
    aims: list[Aim] = []
    with tempfile.TemporaryDirectory() as temporary:
        segmenter = Segmenter(Path(temporary), options.bundle, options.refine)
        if "mosaics" in options.only:
            measure_mosaics(segmenter, data, options.gland, rows, aims)
        if "crops" in options.only:
            measure_crops(segmenter, data, options.gland, options.crops, rows, aims)
        if "glass" in options.only:
            measure_glass(segmenter, data, rows, aims)
    columns = [
        "slide",
        "mIoU %, all analysed",
        "with the tissue step",
        "points lost",
        "glass in classes %",
        "cells read",
    ]
    return Measurement(Table(columns, rows), aims, [f"`--refine {options.refine}`; cells read: all scales together."])


def measure_mosaics(segmenter: Segmenter, data: Path, gland: int, rows: list[list[str]], aims: list[Aim]) -> None:
    """MIoU on whole mosaics, with empty quadrants."""
    for name in MOSAICS:
        slide = data / f"rings_mosaics/{name}_no-mpp.tif"
        truth = np.asarray(Pillow.open(data / f"rings_mosaics/{name}_mask.png"))
        without, with_step, cells = both_mious(segmenter, slide, truth, gland)
        rows.append([name, f"{without:.2f}", f"{with_step:.2f}", f"{without - with_step:.2f}", "", f"{cells}"])
        aims.append(Aim(f"{name}: points lost", without - with_step, 0.3))


def measure_crops(
    segmenter: Segmenter, data: Path, gland: int, count: int, rows: list[list[str]], aims: list[Aim]
) -> None:
    """MIoU on crops of tissue."""
    lost, mious = [], []
    for number, (image, truth) in enumerate(crops(data, count)):
        slide = segmenter.folder / f"crop{number}.png"
        Pillow.fromarray(image).save(slide)
        without, with_step, _ = both_mious(segmenter, slide, truth, gland)
        lost.append(without - with_step)
        mious.append((without, with_step))
    means = np.mean(mious, axis=0)
    rows.append([f"{count} crops, mean", f"{means[0]:.2f}", f"{means[1]:.2f}", f"{np.mean(lost):.2f}", "", ""])
    rows.append([f"{count} crops, worst", "", "", f"{max(lost):.2f}", "", ""])
    aims.append(Aim(f"{count} crops: most points lost", max(lost), 0.5))


def crops(data: Path, count: int) -> Iterator[tuple[npt.NDArray[np.uint8], Labels]]:
    """Squares of held-back tiles with their annotation, the same each time."""
    rng = np.random.default_rng(0)
    for number in range(count):
        name = HELD_BACK[number % len(HELD_BACK)]
        image = np.asarray(Pillow.open(data / f"rings_glands/img/{name}.png").convert("RGB"))
        truth = np.asarray(Pillow.open(data / f"rings_glands/mask/{name}.png"))
        side = round(rng.uniform(*CROP_UM) / RINGS_MPP)
        y, x = (int(rng.integers(length - side + 1)) for length in truth.shape)
        yield image[y : y + side, x : x + side], truth[y : y + side, x : x + side]


def both_mious(segmenter: Segmenter, slide: Path, truth: Labels, gland: int) -> tuple[float, float, int]:
    """MIoU in percent of a result without and with the tissue step, and the cells that the latter read."""
    without = miou(segmenter.labels(slide, RINGS_MPP, tissue=False), truth, gland)
    result = segmenter.labels(slide, RINGS_MPP, tissue=True)
    return without, miou(result, truth, gland), cells_read(result)


def miou(result: Result, truth: Labels, gland: int) -> float:
    """MIoU of glands and the rest, in percent, on the mask's grid; the annotation is taken at its pixels' centres."""
    predicted = np.asarray(result.labels[0]) == gland
    at = [
        np.minimum(((np.arange(count) + 0.5) * length / count).astype(int), length - 1)
        for count, length in zip(predicted.shape, truth.shape, strict=True)
    ]
    wanted = truth[np.ix_(*at)]
    known = np.where(wanted == NOT_ANNOTATED, -1, (wanted == GLAND).astype(np.int64))
    return 100 * float(mean_iou(confusion_matrix(known, predicted.astype(np.int64), 2)[:, :2]))


def measure_glass(segmenter: Segmenter, data: Path, rows: list[list[str]], aims: list[Aim]) -> None:
    """Bare glass within the classes of a mask."""
    slides = [data / name for name in SLIDES]
    for number, size in enumerate(GENERATED):
        slides.append(write_stained_slide(segmenter.folder / f"generated {number + 1}.tif", size))
    for slide in slides:
        result = segmenter.labels(slide, None, tissue=True)
        share = glass_share(result, slide)
        rows.append([slide.stem, "", "", "", f"{100 * share:.3f}", f"{cells_read(result)}"])
        aims.append(Aim(f"{slide.stem}: % of glass in the classes", 100 * share, 0.5))


def glass_share(result: Result, slide: Path) -> float:
    """Share of the labelled area that is bare glass."""
    labels = np.asarray(result.labels[0])
    reader = open_slide(slide)
    scale = scale_at(result.mpp, reader.info.require_mpp(), reader.info.canvas)
    image, _ = read_whole(reader, scale, block_px=2048, unreadable_grey=0)
    reader.close()
    labelled = (labels != 0) & (labels != NOT_ANALYSED)
    return float((labelled & bare_glass(image, result.mpp)).sum() / max(labelled.sum(), 1))


def bare_glass(image: npt.NDArray[np.uint8], mpp: float) -> npt.NDArray[np.bool_]:
    """Bare glass, connected with the slide's edge: bool (rows, columns). image: uint8 (rows, columns, 3) RGB.

    White between cells, which thin gaps connect with the outside, does not count.
    """
    smooth = ndimage.uniform_filter(image, (3, 3, 1)).astype(np.int16)
    darkest, colour = smooth.min(axis=-1), smooth.max(axis=-1) - smooth.min(axis=-1)
    frame = np.concatenate([darkest[0], darkest[-1], darkest[:, 0], darkest[:, -1]])
    white = (colour <= MOST_COLOUR) & (darkest >= np.median(frame) - MOST_DARKER)
    thin = max(1, round(THIN_UM / mpp / 2))
    wide = ndimage.minimum_filter(white, 2 * thin + 1)
    pieces, _ = ndimage.label(wide)
    outer = np.unique(np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]]))
    outside = np.isin(pieces, outer[outer > 0])
    return np.asarray(ndimage.maximum_filter(outside, 2 * thin + 1) & white)


def cells_read(result: Result) -> int:
    """Cells of all scales that were read."""
    return sum(one["cells_refined"] - one.get("cells_unaffected", 0) for one in result.summary["scales"])


if __name__ == "__main__":
    main()
