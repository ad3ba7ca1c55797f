"""Cityscapes: street scenes, with the nineteen classes that are evaluated."""

from __future__ import annotations

from pathlib import Path

from wsi_magnet.dataset.layouts.base import (
    FoundDataset,
    FoundImage,
    Layout,
    LayoutOptions,
    files_below,
    left_out,
    require,
    unique,
    without,
)
from wsi_magnet.dataset.sample import Split

ABOUT = """Cityscapes: leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and gtFine/{train,val}/CITY/*_gtFine_labelIds.png.
The label ids that are evaluated become their train ids and 1, from 1 road to 19 bicycle, because 0 is background in a
mask; others are not labelled. Group: the city. Split as published; the labels of test are withheld, so it is left out.
1.0 "micron" stands for a pixel, as with deepglobe."""

LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label ids of the train ids 0, 1, ..., 18."""

LABELS = "; ".join([*(f"{label}={value}" for value, label in enumerate(LABEL_IDS, 1)), "*=ignore"])

SPLITS: dict[str, Split] = {"train": "train", "val": "validation"}

SCENE = r"(?P<scene>(?P<city>[a-z-]+)_\d+_\d+)"


def find(root: Path, options: LayoutOptions) -> FoundDataset:
    """See ABOUT; images without labels are left out."""
    matches = files_below(root, rf"{SCENE}_leftImg8bit\.png")
    images = unique((match["scene"], path) for path, match in matches if path.parent.parent.name in SPLITS)
    cities = {match["scene"]: match["city"] for _, match in matches}
    masks = unique((match["scene"], path) for path, match in files_below(root, rf"{SCENE}_gtFine_labelIds\.png"))
    rows = [
        FoundImage(images[name], (masks[name],), cities[name], LABELS, 1.0, SPLITS[images[name].parent.parent.name])
        for name in sorted(images)
        if name in masks
    ]
    wanted = "leftImg8bit/{train,val}/CITY/*_leftImg8bit.png with gtFine/{train,val}/CITY/*_gtFine_labelIds.png"
    return require(rows, root, wanted, [left_out(without(images, masks), "images without labels")])


LAYOUT = Layout(ABOUT, find)
