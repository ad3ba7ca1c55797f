"""PANDA: prostate biopsies of two hospitals, whose mask values differ in meaning."""

from __future__ import annotations

import csv
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
)
from wsi_magnet.errors import ManifestError

_COMMON = """train.csv, train_images/ID.tiff and train_label_masks/ID_mask.tiff; only the rows of this hospital. Group:
the image, because no patients are published: biopsies of one patient may be in two splits. The resolution is the
slide's."""

ABOUT_RADBOUD = f"""PANDA, Radboud: {_COMMON} Values 0 background or unknown: not labelled; 1 stroma, 2 benign
epithelium, 3, 4, 5 Gleason patterns (by gland, half automatic, noisy)."""

ABOUT_KAROLINSKA = f"""PANDA, Karolinska: {_COMMON} Values 0 background or unknown: not labelled; 1 benign tissue:
stroma or benign epithelium; 2 cancer: Gleason 3, 4 or 5."""

LABELS = {"radboud": "0=ignore; 1=1; 2=2; 3=3; 4=4; 5=5", "karolinska": "0=ignore; 1=1|2; 2=3|4|5"}
"""Codings by value: the masks are RGB files with the value in red, read as such because no colour is listed."""


def find(root: Path, options: LayoutOptions, provider: str) -> FoundDataset:
    """See ABOUT_RADBOUD and ABOUT_KAROLINSKA; images without a mask are left out."""
    ids = _ids(root, provider)
    images = unique((match[1], path) for path, match in files_below(root, r"([0-9a-f]+)\.tiff?"))
    masks = unique((match[1], path) for path, match in files_below(root, r"([0-9a-f]+)_mask\.tiff?"))
    rows = [
        FoundImage(images[name], (masks[name],), name, LABELS[provider])
        for name in ids
        if name in images and name in masks
    ]
    notes = (
        "no patients are published: biopsies of one patient may be in two splits",
        left_out((name for name in ids if name not in images), "rows of train.csv without an image"),
        left_out((name for name in ids if name in images and name not in masks), "images without a mask"),
    )
    return require(rows, root, f"train_images/ID.tiff with train_label_masks/ID_mask.tiff of {provider}", notes)


def _ids(root: Path, provider: str) -> list[str]:
    tables = files_below(root, r"train\.csv")
    if not tables:
        raise ManifestError(f"{root} has no train.csv, which names each image's hospital; put it there")
    path = tables[0][0]
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        missing = {"image_id", "data_provider"} - set(rows.fieldnames or ())
        if missing:
            raise ManifestError(f"{path} has no column {' and none '.join(sorted(missing))}; it is not PANDA's")
        return [row["image_id"] for row in rows if row["data_provider"] == provider]


def _finder(provider: str) -> Callable[[Path, LayoutOptions], FoundDataset]:
    return partial(find, provider=provider)


RADBOUD = Layout(ABOUT_RADBOUD, _finder("radboud"))
KAROLINSKA = Layout(ABOUT_KAROLINSKA, _finder("karolinska"))
