"""The Zürich microarrays of Arvaniti et al.: cores graded by one pathologist, those of the test set by two."""

from __future__ import annotations

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
from wsi_magnet.dataset.sample import Split
from wsi_magnet.errors import ManifestError

ABOUT = """Zürich TMA (Arvaniti et al., Harvard Dataverse OCYCMP): ZT*_*_*/ZT*.jpg, Gleason_masks_train/mask_ZT*.png and
Gleason_masks_test_pathologist1, 2/mask1_ZT*.png, mask2_ZT*.png, nested or not. Values 0 benign tissue: background,
stroma or benign epithelium; 1, 2, 3 Gleason 3, 4, 5; 4 not labelled. Group: the microarray. Split as published: ZT80 is
the test set, graded by two pathologists (--consensus), ZT76 the validation set. 0.23 µm/px."""

LABELS = "0=0|1|2; 1=3; 2=4; 3=5; 4=ignore"
MPP = 0.23

CORE = r"(?P<core>(?P<tma>ZT\d+)_\d+_[A-Z]_\d+_\d+)"
SPLITS: dict[str, Split] = {"ZT80": "test", "ZT76": "validation", "ZT111": "train", "ZT199": "train", "ZT204": "train"}


def find(root: Path, options: LayoutOptions) -> FoundDataset:
    """See ABOUT; images without a mask are left out."""
    masks: dict[str, list[Path]] = defaultdict(list)
    for path, match in files_below(root, rf"mask\d*_{CORE}\.png"):
        masks[match["core"].upper()].append(path)
    images = unique((match["core"].upper(), path) for path, match in files_below(root, rf"{CORE}\.jpe?g"))
    rows = [_row(core, images[core], masks[core]) for core in sorted(images) if core in masks]
    notes = (
        left_out(without(images, masks), "images without a mask"),
        left_out(without(masks, images), "masks without an image"),
    )
    return require(rows, root, "ZT*.jpg with mask_ZT*.png, mask1_ZT*.png or mask2_ZT*.png", notes)


def _row(core: str, image: Path, masks: list[Path]) -> FoundImage:
    tma = core.partition("_")[0]
    if tma not in SPLITS:
        raise ManifestError(f"{image}: {tma} is not a published microarray ({', '.join(sorted(SPLITS))})")
    return FoundImage(image, tuple(masks), tma, LABELS, MPP, SPLITS[tma])


LAYOUT = Layout(ABOUT, find, consensus="majority", raters=True)
