"""The picture of README.md: a part of the demo slide, its mask at the coarsest scale, and its refined mask.

wsi-magnet run demo/rings_P1_D5_9_13.tif --mpp 0.93 -o refined
wsi-magnet run demo/rings_P1_D5_9_13.tif --mpp 0.93 --refine 0 -o coarse
python pipelines/readme_picture.py coarse/rings_P1_D5_9_13 refined/rings_P1_D5_9_13 docs/images/demo.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from wsi_magnet import open_result

SLIDE = Path(__file__).resolve().parent.parent / "demo" / "rings_P1_D5_9_13.tif"
CORNER_XY, SIZE_WH = (1640, 220), (700, 560)
OPACITY, GAP_PX = 0.5, 12


def main(coarse: str, refined: str, target: str) -> None:
    """Draw the tissue and both masks over it beside each other."""
    with openslide.OpenSlide(SLIDE) as slide:
        tissue = np.asarray(slide.read_region(CORNER_XY, 0, SIZE_WH).convert("RGB"))
    panels = [tissue, over(tissue, coarse), over(tissue, refined)]
    gap = np.full((SIZE_WH[1], GAP_PX, 3), 255, np.uint8)
    picture = np.hstack([panels[0], gap, panels[1], gap, panels[2]])
    Image.fromarray(picture).resize((picture.shape[1] // 2, picture.shape[0] // 2)).save(target, quality=88)


def over(tissue: np.ndarray, folder: str) -> np.ndarray:
    """The mask of a result over the tissue, in the colours of its classes."""
    result = open_result(folder)
    region = result.region(*CORNER_XY, *SIZE_WH, mpp=result.slide.mpp_xy[0])
    colors = np.full((256, 3), 255, np.uint8)
    for one in result.classes:
        colors[one.value] = one.color
    mixed = (1 - OPACITY) * tissue + OPACITY * colors[region.labels]
    return np.where((region.labels > 0)[..., None], mixed, tissue).astype(np.uint8)


if __name__ == "__main__":
    main(*sys.argv[1:])
