"""The RINGS tiles with set-valued labels: for each pixel the classes that it may be, as bits.

A gland of `rings_glands` may be benign or tumour; a pixel that nobody has labelled may be anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage
from skimage.filters import threshold_otsu

from first_bundle.config import DataConfig

BACKGROUND, STROMA, BENIGN, TUMOUR = 1, 2, 4, 8
"""The bits, in the order of the network's channels."""
N_CLASSES = 4
GLAND = BENIGN | TUMOUR
ANY = BACKGROUND | STROMA | GLAND

Pixels = npt.NDArray[np.uint8]

GLASS_ABOVE = 215
"""Smoothed darkest channel from which a pixel outside glands is empty: glass, a vessel, a tear."""
TISSUE_BELOW = 190
"""And below which it is tissue; between the two it may be either."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One labelled image."""

    name: str
    kind: str
    """"glands" or "tumour": the folder it comes from."""
    mpp: float
    image: Pixels
    """uint8 (H, W, 3), RGB."""
    sets: Pixels
    """uint8 (H, W), the classes allowed, one bit for each channel of the network."""


def load_tiles(folder: Path, config: DataConfig) -> list[Tile]:
    """All tiles below `folder`, sorted by name. Raises FileNotFoundError where there are none."""
    glands = [
        Tile(path.stem, "glands", config.glands_mpp, image := _rgb(path), gland_sets(image, _gland_mask(path)))
        for path in sorted(folder.glob("rings_glands/img/*.png"))
    ]
    tumour = [
        Tile(path.stem, "tumour", config.tumour_mpp, image := _rgb(path), tumour_sets(image, _rgb(_mask_of(path))))
        for path in sorted(folder.glob("rings_tumour/img/*.png"))
    ]
    if not glands or not tumour:
        raise FileNotFoundError(f"{folder} holds no rings_glands/img/*.png or no rings_tumour/img/*.png")
    return glands + tumour


def training_tiles(tiles: list[Tile], config: DataConfig) -> list[Tile]:
    """Those that may be learned from."""
    return [tile for tile in tiles if tile.name not in (*config.test, *config.validation)]


def gland_sets(image: Pixels, gland: npt.NDArray[np.bool_]) -> Pixels:
    """Sets of a tile all of whose glands are outlined, without saying which are tumour."""
    darkest = ndimage.gaussian_filter(image.min(axis=-1).astype(np.float32), sigma=2)
    sets = np.full(gland.shape, BACKGROUND | STROMA, np.uint8)
    sets[darkest > GLASS_ABOVE] = BACKGROUND
    sets[darkest < TISSUE_BELOW] = STROMA
    sets[gland] = GLAND
    return sets


def tumour_sets(image: Pixels, mask: Pixels) -> Pixels:
    """Sets of a tile in red (tumour gland), green (benign gland) and black (not labelled, glands included).

    Red is drawn round groups of glands, so that its pale parts may be stroma. What is black, pale and tissue is taken
    for stroma: without it no stroma of these slides would be learned, and their stain would come to mean tumour.
    """
    red, green = mask[..., 0] > 127, mask[..., 1] > 127
    pale = pale_tissue(image)
    sets = np.full(mask.shape[:2], ANY, np.uint8)
    sets[pale] = STROMA
    sets[red] = TUMOUR
    sets[red & pale] = TUMOUR | STROMA
    sets[green] = BENIGN
    return sets


def pale_tissue(image: Pixels) -> npt.NDArray[np.bool_]:
    """True where there is tissue without a crowd of nuclei: little absorption of red, which eosin lets through.

    image: uint8 (H, W, 3), about 1.5 um a pixel; the limit is Otsu's on this image alone. Returns bool (H, W).
    """
    red_density = -np.log(np.maximum(image[..., 0].astype(np.float32), 1) / 255)
    smooth = ndimage.gaussian_filter(red_density, sigma=4)
    tissue = ndimage.gaussian_filter(image.min(axis=-1).astype(np.float32), sigma=2) < 205
    inner = ndimage.binary_erosion(tissue, iterations=4, border_value=1)
    return np.asarray(inner & (smooth < threshold_otsu(smooth[tissue])), dtype=np.bool_)


def _rgb(path: Path) -> Pixels:
    return np.asarray(Image.open(path).convert("RGB"))


def _gland_mask(path: Path) -> npt.NDArray[np.bool_]:
    return np.asarray(Image.open(_mask_of(path))) > 0


def _mask_of(image: Path) -> Path:
    return image.parent.parent / "mask" / image.name
