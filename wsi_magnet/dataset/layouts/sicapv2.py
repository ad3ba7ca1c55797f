"""SICAPv2: patches of prostate biopsies at 10x, with the published test set if its lists were saved as CSV."""

from __future__ import annotations

import csv
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
from wsi_magnet.errors import ManifestError

ABOUT = """SICAPv2: images/*.jpg and masks/*.png of the same name, 512 px. Values 0 not cancer: background, stroma or
benign epithelium; 1, 2, 3 Gleason 3, 4, 5. Group: the slide, the name before "_Block_". Split: by slide; as published
where the lists partition/Test/Test.xlsx and partition/Validation/Val1/Test.xlsx were saved as .csv beside the .xlsx.
1.0 µm/px (10x)."""

LABELS = "0=0|1|2; 1=3; 2=4; 3=5"
MPP = 1.0

LISTS: dict[tuple[str, str], Split] = {("Test", "Test"): "test", ("Val1", "Test"): "validation"}
"""Split by (folder, file) of the published lists: the test list of Val1 is the validation set."""


def find(root: Path, options: LayoutOptions) -> FoundDataset:
    """See ABOUT; images without a mask are left out."""
    pattern = r"(?P<name>(?P<slide>.+?)_Block_.+)"
    images = unique((match["name"], path) for path, match in files_below(root, rf"{pattern}\.jpe?g"))
    masks = unique((match["name"], path) for path, match in files_below(root, rf"{pattern}\.png"))
    published = _published(root)
    rows = [
        FoundImage(images[name], (masks[name],), _slide(name), LABELS, MPP, _split(name, published))
        for name in sorted(images)
        if name in masks
    ]
    notes = (
        left_out(without(images, masks), "images without a mask"),
        "split as published" if published else "no lists of the published split saved as CSV: split by slide",
    )
    return require(rows, root, "images/*_Block_*.jpg with masks/*_Block_*.png", notes)


def _slide(name: str) -> str:
    return name.partition("_Block_")[0]


def _split(name: str, published: dict[str, Split]) -> Split | None:
    return published.get(name, "train") if published else None


def _published(root: Path) -> dict[str, Split]:
    """Splits by image name, without train; empty without lists."""
    found: dict[str, Split] = {}
    for path, _ in files_below(root, r"Test\.csv"):
        split = LISTS.get((path.parent.name, path.stem))
        if split:
            found.update(dict.fromkeys(_names(path), split))
    return found


def _names(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        head = file.readline()
        file.seek(0)
        rows = csv.DictReader(file, delimiter=";" if head.count(";") > head.count(",") else ",")
        if "image_name" not in (rows.fieldnames or ()):
            raise ManifestError(f"{path} has no column image_name; save SICAPv2's list as CSV UTF-8 as it is")
        return [Path(row["image_name"]).stem for row in rows]


LAYOUT = Layout(ABOUT, find)
