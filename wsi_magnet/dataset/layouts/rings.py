"""RINGS: tiles of prostate biopsies, with outlines of all glands, or of tumour and benign glands."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
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

ABOUT_GLANDS = """RINGS, glands (Mendeley Data h8bdwrtnr5): img/*.png and mask/*.png of the same name. Values 0 no
gland: background or stroma; 1 gland: benign epithelium, Gleason 3, 4, 5, or 6 (a gland, benign or tumour). Group:
the name without its last number, because neighbouring tiles of one region overlap. 0.93 µm/px, not verified."""

ABOUT_TUMOUR = """RINGS, tumour: img/*.png and mask/*.png of the same name. Colours ff0000 tumour gland: Gleason 3,
4, 5, 6 (a gland) or 7 (tumour); 00ff00 benign gland: benign epithelium or 6 (a gland); 000000 not labelled. Group:
patient and core, the first two parts of the name. 1.86 µm/px, not verified."""

GLANDS_LABELS, GLANDS_MPP = "0=0|1; 1=2|3|4|5|6", 0.93
TUMOUR_LABELS, TUMOUR_MPP = "#ff0000=3|4|5|6|7; #00ff00=2|6; #000000=ignore", 1.86


def region_of(name: str) -> str:
    """Region of a tile: "P1_D5_3_12_4" is a tile of P1_D5_3_12."""
    return re.sub(r"_\d+$", "", name)


def core_of(name: str) -> str:
    """Patient and core of a tile: P3_C10 for "P3_C10_3_5_1"."""
    return "_".join(name.split("_")[:2])


def find(root: Path, options: LayoutOptions, group_of: Callable[[str], str], labels: str, mpp: float) -> FoundDataset:
    """Images and masks of the same name, in folders img and mask below the root; images without a mask are left out."""
    tiles = [(path, match[1]) for path, match in files_below(root, r"(P\d+_.+)\.png")]
    images, masks = (
        unique((name, path) for path, name in tiles if path.parent.name == folder) for folder in ("img", "mask")
    )
    rows = [
        FoundImage(images[name], (masks[name],), group_of(name), labels, mpp)
        for name in sorted(images)
        if name in masks
    ]
    notes = (
        f"{mpp:g} µm/px is not verified; override it with --mpp",
        left_out(without(images, masks), "images without a mask"),
    )
    return require(rows, root, "img/P*.png with mask/P*.png of the same name", notes)


GLANDS = Layout(ABOUT_GLANDS, partial(find, group_of=region_of, labels=GLANDS_LABELS, mpp=GLANDS_MPP))
TUMOUR = Layout(ABOUT_TUMOUR, partial(find, group_of=core_of, labels=TUMOUR_LABELS, mpp=TUMOUR_MPP))
