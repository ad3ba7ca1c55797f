"""DeepGlobe land cover: satellite images of 2448 pixels and masks in colours."""

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

ABOUT = """DeepGlobe land cover: *_sat.jpg and *_mask.png. Colours 00ffff urban, ffff00 agriculture, ff00ff rangeland,
00ff00 forest, 0000ff water, ffffff barren are the values 1 to 6, 000000 unknown is 7, a class as in the published
networks; any other colour is not labelled. Group: the image. Not a microscope's: 1.0 "micron" stands for a pixel, so
that scales are factors (8,4,2,1)."""

COLOURS = ("#00ffff", "#ffff00", "#ff00ff", "#00ff00", "#0000ff", "#ffffff", "#000000")
"""Colours of the values 1, 2, ..., in the data set's order, where unknown comes last."""

LABELS = "; ".join([*(f"{colour}={value}" for value, colour in enumerate(COLOURS, 1)), "*=ignore"])


def find(root: Path, options: LayoutOptions) -> FoundDataset:
    """See ABOUT; images without a mask (validation and test have none) are left out."""
    images = unique((match[1], path) for path, match in files_below(root, r"(\d+)_sat\.jpe?g"))
    masks = unique((match[1], path) for path, match in files_below(root, r"(\d+)_mask\.png"))
    rows = [FoundImage(images[name], (masks[name],), name, LABELS, 1.0) for name in sorted(images) if name in masks]
    return require(rows, root, "*_sat.jpg with *_mask.png", [left_out(without(images, masks), "images without a mask")])


LAYOUT = Layout(ABOUT, find)
