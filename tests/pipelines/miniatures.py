"""Public data sets in miniature: their folders, names and label codes, and images whose colours are their classes.

Sizes are those of the data sets, divided by 8 to 32. `tests.dataset.made_layouts` has smaller ones, without content.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from wsi_magnet.dataset.layouts.deepglobe import COLOURS as DEEPGLOBE_COLOURS

Labels = npt.NDArray[np.uint8]

BLOCK_PX = 16
"""Side of the squares of one label."""

STAINS = ((225, 200, 228), (214, 160, 200), (150, 90, 160), (196, 96, 150), (110, 60, 130), (170, 130, 190))
"""Colours of stained tissue, for label values from 0 on."""


def labels_of(shape_hw: tuple[int, int], values: Sequence[int], seed: int) -> Labels:
    """Squares of random values; every value is there if there are as many squares."""
    rng = np.random.default_rng(seed)
    rows, columns = (-(-length // BLOCK_PX) for length in shape_hw)
    drawn = np.resize(np.array(values, np.uint8), rows * columns)
    grid = rng.permutation(drawn).reshape(rows, columns)
    return np.kron(grid, np.ones((BLOCK_PX, BLOCK_PX), np.uint8))[: shape_hw[0], : shape_hw[1]]


def picture_of(labels: Labels, colours: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.uint8]:
    """Colours by label, with noise, uint8 (H, W, 3)."""
    noise = np.random.default_rng(seed).normal(0, 6, (*labels.shape, 3))
    return np.clip(colours[labels] + noise, 0, 255).astype(np.uint8)


def cityscapes(root: Path) -> None:
    """A scene of 256 x 128 of six cities, with all label ids, those that are not evaluated among them."""
    colours = np.random.default_rng(0).integers(30, 226, (34, 3)).astype(np.uint8)
    cities = {"train": ("aachen", "ulm", "weimar"), "val": ("frankfurt", "lindau", "munster")}
    for seed, (split, city) in enumerate((split, city) for split, names in cities.items() for city in names):
        scene = f"{city}_000000_000019"
        labels = labels_of((128, 256), range(34), seed)
        image = picture_of(labels, colours, seed)
        _save(root / "leftImg8bit" / split / city / f"{scene}_leftImg8bit.png", image)
        _save(root / "gtFine" / split / city / f"{scene}_gtFine_labelIds.png", labels)
        _save(root / "gtFine" / split / city / f"{scene}_gtFine_color.png", image)
    _save(root / "leftImg8bit" / "test" / "berlin" / "berlin_000000_000019_leftImg8bit.png", image)


def deepglobe(root: Path) -> None:
    """Eight images of 153 x 153 with masks of all colours, and one without a mask."""
    masks = np.array([[int(one[i : i + 2], 16) for i in (1, 3, 5)] for one in DEEPGLOBE_COLOURS], np.uint8)
    colours = np.array([(140, 130, 130), (170, 160, 90), (120, 140, 80), (40, 80, 40), (40, 60, 110), (200, 190, 170)])
    colours = np.vstack([colours, (250, 250, 250)]).astype(np.uint8)
    for number in range(8):
        labels = labels_of((153, 153), range(7), number)
        _save(root / "train" / f"{100 + number}_sat.jpg", picture_of(labels, colours, number))
        _save(root / "train" / f"{100 + number}_mask.png", masks[labels])
    _save(root / "valid" / "7_sat.jpg", picture_of(labels, colours, 99))


def gleason2019(root: Path) -> None:
    """A core of 160 x 160 of six microarrays, each annotated by one to three pathologists."""
    colours = np.array(STAINS)[[0, 1, 0, 2, 3, 4, 1]].astype(np.uint8)
    for number, slide in enumerate((1, 2, 3, 5, 6, 7)):
        name = f"slide{slide:03}_core{number:03}"
        labels = labels_of((160, 160), (0, 1, 3, 4, 5, 6), slide)
        _save(root / "Train_imgs" / f"{name}.jpg", picture_of(labels, colours, slide))
        for rater in range(1, 2 + number % 3):
            _save(root / f"Maps{rater}_T" / f"{name}_classimg_nonconvex.png", labels)
    _save(root / "Test_imgs" / "slide001_core145.jpg", picture_of(labels, colours, 0))


def panda(root: Path) -> None:
    """Four biopsies of Radboud and one of Karolinska, 256 x 256 at 0.5 µm/px."""
    rows = ["image_id,data_provider,isup_grade,gleason_score"]
    for number in range(5):
        name, radboud = f"{number:032x}", number < 4
        rows.append(f"{name},{'radboud' if radboud else 'karolinska'},0,0+0")
        labels = labels_of((256, 256), range(6) if radboud else range(3), number)
        _tiff(root / "train_images" / f"{name}.tiff", picture_of(labels, np.array(STAINS, np.uint8), number))
        _tiff(root / "train_label_masks" / f"{name}_mask.tiff", np.stack([labels, 0 * labels, 0 * labels], axis=-1))
    (root / "train.csv").write_text("\n".join(rows))


def sicapv2(root: Path) -> None:
    """A patch of 128 x 128 of three slides, and a second one of the first."""
    colours = np.array(STAINS)[[1, 3, 4, 5]].astype(np.uint8)
    for slide, y in ((1, 0), (1, 512), (2, 0), (3, 0)):
        name = f"16B000185{slide}_Block_Region_1_0_0_xini_6803_yini_{y}"
        labels = labels_of((128, 128), range(4), 100 * slide + y)
        _save(root / "images" / f"{name}.jpg", picture_of(labels, colours, slide))
        _save(root / "masks" / f"{name}.png", labels)


def aggc(root: Path) -> None:
    """Three slides of 256 x 256 at 0.5 µm/px, each with a mask for each class."""
    names = ("Stroma", "Normal", "G3", "G4", "G5")
    for slide in range(1, 4):
        stem = f"Subset1_Train_{slide}"
        labels = labels_of((256, 256), range(6), 1000 + slide)  # not PANDA's: the same image in two sites is refused
        _tiff(root / "Subset1_Train_image" / f"{stem}.tiff", picture_of(labels, np.array(STAINS, np.uint8), slide))
        for value, name in enumerate(names, 1):
            mask = np.where(labels == value, 255 if slide % 2 else 1, 0).astype(np.uint8)
            _tiff(root / "Subset1_Train_annotation" / "Train" / stem / f"{name}_Mask.tif", mask)


MAKERS: dict[str, Callable[[Path], None]] = {
    "cityscapes": cityscapes,
    "deepglobe": deepglobe,
    "gleason2019": gleason2019,
    "panda": panda,
    "sicapv2": sicapv2,
    "aggc": aggc,
}
"""Makers by the folder's name."""


def _save(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)  # of JPEG


def _tiff(path: Path, pixels: npt.NDArray[np.uint8], mpp: float = 0.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb" if pixels.ndim == 3 else "minisblack",
        tile=(128, 128),
        resolution=(1e4 / mpp, 1e4 / mpp),
        resolutionunit="CENTIMETER",
    )
