"""Our loop gives the published loop's probabilities and labels on at least 99.5 % of the pixels of every scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.parity.built import fpn_bundle
from wsi_magnet.inference.image import segment_image

HERE = Path(__file__).parent
TOLERANCE = 2e-3
SHARE = 0.995


def test_loop() -> None:
    images = [np.asarray(Image.open(HERE / name)) for name in ("image_128.png", "image_256.png", "image.png")]
    results = segment_image(images, fpn_bundle(), points=0.75, median_px=5, precision="fp32")
    with np.load(HERE / "loop.npz") as vectors:
        published = [vectors[f"stage{scale}"][0].astype(np.float32) for scale in range(3)]
    for ours, theirs in zip(results, published, strict=True):
        assert ours.shape == theirs.shape
        assert (np.abs(ours - theirs).max(axis=0) <= TOLERANCE).mean() >= SHARE
        assert (ours.argmax(axis=0) == theirs.argmax(axis=0)).mean() >= SHARE
