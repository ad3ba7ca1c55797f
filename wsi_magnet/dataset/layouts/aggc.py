"""AGGC 2022: whole slides, each with a folder of one mask per class."""

from __future__ import annotations

import re
from collections import defaultdict
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
from wsi_magnet.dataset.table import CODING_SEPARATOR

ABOUT = """AGGC 2022: Subset*_Train_image/NAME.tiff and Subset*_Train_annotation/NAME/ with any of Stroma_Mask.tif,
Normal_Mask.tif, G3_Mask.tif, G4_Mask.tif, G5_Mask.tif; nested or not. A pixel that is 0 in all of them is not
labelled; where they overlap the higher pattern is on top. Group: the slide; scans of one slide by several scanners
(Subset3) are one group. The resolution is the slide's."""

CLASSES = {"g5": 5, "g4": 4, "g3": 3, "normal": 2, "stroma": 1}
"""Class values by mask name, from top to bottom."""

MASK = rf"({'|'.join(CLASSES)})_mask\.tiff?"
SLIDE = re.compile(r"subset\d+_[a-z]+_\d+", re.IGNORECASE)


def find(root: Path, options: LayoutOptions) -> FoundDataset:
    """See ABOUT; images without a mask are left out."""
    masks: dict[str, dict[str, Path]] = defaultdict(dict)
    for path, match in files_below(root, MASK):
        masks[path.parent.name][match[1].lower()] = path
    images = unique(
        (path.stem, path) for path, _ in files_below(root, r".+\.tiff?") if not re.fullmatch(MASK, path.name, re.I)
    )
    rows = [_row(images[name], masks[name]) for name in sorted(images) if name in masks]
    notes = (
        left_out(without(images, masks), "images without a mask"),
        left_out(without(masks, images), "folders of masks without an image"),
    )
    return require(rows, root, "Subset*_image/NAME.tiff with Subset*_annotation/NAME/*_Mask.tif", notes)


def _row(image: Path, masks: dict[str, Path]) -> FoundImage:
    kept = [name for name in CLASSES if name in masks]
    slide = SLIDE.match(image.stem)
    return FoundImage(
        image,
        tuple(masks[name] for name in kept),
        slide[0] if slide else image.stem,
        f" {CODING_SEPARATOR} ".join(f"0=ignore; 1={CLASSES[name]}; 255={CLASSES[name]}" for name in kept),
    )


LAYOUT = Layout(ABOUT, find)
