"""The folders of public data sets in miniature: the names that they have, and a few pixels in each file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

_serial = count()


def image(path: Path) -> Path:
    """An image like no other."""
    return _save(path, np.random.default_rng(next(_serial)).integers(0, 256, (16, 16, 3), np.uint8))


def mask(path: Path, value: int = 0) -> Path:
    """A mask of one value."""
    return _save(path, np.full((4, 4), value, np.uint8))


def gleason2019(root: Path) -> None:
    """Three microarrays of two cores; the first core has three maps, the last none."""
    for name in ("slide001_core003", "slide001_core004", "slide002_core003", "slide002_core004", "slide003_core003"):
        image(root / "Train Imgs" / "Train Imgs" / f"{name}.jpg")
    image(root / "Train Imgs" / "Train Imgs" / "slide003_core004.jpg")
    image(root / "Test_imgs" / "slide001_core145.jpg")
    maps = [(1, "slide001_core003"), (3, "slide001_core003"), (6, "slide001_core003"), (1, "slide001_core004")]
    maps += [(2, "slide002_core003"), (2, "slide002_core004"), (4, "slide003_core003")]
    for rater, core in maps:
        mask(root / f"Maps{rater}_T" / f"Maps{rater}_T" / f"{core}_classimg_nonconvex.png", rater % 2 * 3)
    (root / "final_list_to_remove.json").write_text(json.dumps({"slide001_core003.jpg": ["Maps3_T"], "x": ["Maps1_T"]}))


def panda(root: Path) -> None:
    """Two biopsies of each hospital; the last has no mask."""
    rows = ["image_id,data_provider,isup_grade,gleason_score"]
    for name, provider in (("0a1", "radboud"), ("0b2", "karolinska"), ("0c3", "radboud"), ("0d4", "karolinska")):
        rows.append(f"{name},{provider},0,0+0")
        image(root / "train_images" / f"{name}.tiff")
        if name != "0d4":
            _save(root / "train_label_masks" / f"{name}_mask.tiff", np.array([[[1, 0, 0]]], np.uint8))
    (root / "train.csv").write_text("\n".join(rows))


def zurich_tma(root: Path) -> None:
    """A core for training, one for validation, one for test, and a patch that is none."""
    for core in ("ZT111_4_A_1_1", "ZT76_39_A_1_2", "ZT80_38_A_7_10"):
        image(root / core.rsplit("_", 2)[0] / f"{core}.jpg")
    mask(root / "Gleason_masks_train" / "mask_ZT111_4_A_1_1.png")
    mask(root / "Gleason_masks_train" / "mask_ZT76_39_A_1_2.png")
    for rater in (1, 2):
        folder = root / "Gleason_masks_test" / f"Gleason_masks_test_pathologist{rater}"
        mask(folder / f"mask{rater}_ZT80_38_A_7_10.png", rater)
    image(root / "test_patches_750" / "ZT80_38_A_7_10_patch_3_class_1.jpg")


def sicapv2(root: Path) -> None:
    """Three slides, two patches each, without the lists of the published split."""
    for slide in ("16B0001851", "18B0006623D", "17B0023379"):
        for y in (0, 512):
            name = f"{slide}_Block_Region_1_0_0_xini_6803_yini_{y}"
            image(root / "images" / f"{name}.jpg")
            mask(root / "masks" / f"{name}.png", 2)


def sicapv2_lists(root: Path) -> None:
    """The published lists, saved as CSV."""
    lists = {"Test/Test.csv": "17B0023379", "Validation/Val1/Test.csv": "18B0006623D"}
    for name, slide in lists.items():
        path = root / "partition" / name
        path.parent.mkdir(parents=True)
        rows = [f"{slide}_Block_Region_1_0_0_xini_6803_yini_{y}.jpg,1,0,0,0,0" for y in (0, 512)]
        path.write_text("\n".join(["image_name,NC,G3,G4,G5,G4C", *rows]))


def aggc(root: Path) -> None:
    """Two slides; the second scanned twice."""
    for name, where, classes in (
        ("Subset1_Train_1", "", ("Stroma", "G3", "G5")),
        ("Subset3_Train_5_Akoya", "Akoya", ("Normal",)),
        ("Subset3_Train_5_Zeiss", "Zeiss", ("Normal", "G4")),
    ):
        subset = name.split("_")[0]
        image(root / f"{subset}_Train_image" / where / f"{name}.tiff")
        for one in classes:
            mask(root / f"{subset}_Train_annotation" / "Train" / where / name / f"{one}_Mask.tif", 1)


def rings(root: Path, names: Iterable[str]) -> None:
    """Tiles and masks of these names."""
    for name in names:
        image(root / "img" / f"{name}.png")
        mask(root / "mask" / f"{name}.png", 1)


def deepglobe(root: Path) -> None:
    """Three images of the training set and one of the validation set, which has no mask."""
    for number in (119, 2334, 855):
        image(root / "train" / f"{number}_sat.jpg")
        _save(root / "train" / f"{number}_mask.png", np.full((4, 4, 3), (0, 255, 255), np.uint8))
    image(root / "valid" / "7_sat.jpg")


def cityscapes(root: Path) -> None:
    """Two cities for training, one for validation, one of the test set."""
    for split, city in (("train", "aachen"), ("train", "ulm"), ("val", "frankfurt"), ("test", "berlin")):
        scene = f"{city}_000000_000019"
        image(root / "leftImg8bit" / split / city / f"{scene}_leftImg8bit.png")
        mask(root / "gtFine" / split / city / f"{scene}_gtFine_labelIds.png", 7)
        mask(root / "gtFine" / split / city / f"{scene}_gtFine_instanceIds.png")


def _save(path: Path, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path
