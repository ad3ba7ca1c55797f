"""Samples made of a small picture and label images or regions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from tests.annotations.made import MPP
from wsi_magnet.dataset.sample import Consensus, Sample


def made_sample(
    folder: Path,
    *masks: npt.NDArray[np.uint8],
    annotations: Sequence[Path] = (),
    consensus: Consensus = "first",
    **options: Any,
) -> Sample:
    """A picture of the size of the first mask (else 40 x 30) whose pixels say their place, and its annotations."""
    height, width = masks[0].shape if masks else (30, 40)
    y, x = np.mgrid[0:height, 0:width].astype(np.uint8)
    image = folder / "image.png"
    Pillow.fromarray(np.stack([x, y, x * 0], axis=-1)).save(image)
    paths = [folder / f"mask_{i}.png" for i in range(len(masks))]
    for path, mask in zip(paths, masks, strict=True):
        Pillow.fromarray(mask).save(path)
    settings: dict[str, Any] = {"mpp": MPP, "group": "a", "split": "train", "row": 7, **options}
    return Sample(image=image, annotations=(*paths, *annotations), consensus=consensus, **settings)
