"""Comparison of SHELL in a run of wsi-magnet with its own program, on the same pixels.

    python -m pipelines.shell_network.compare IMAGE --mpp 0.93 --wheel WHEEL -o FOLDER [--on-glass]

For an environment in which `lavlab-shell` with its own dependencies and this folder's package are installed. The image
is first brought to 2 µm/px, so that neither program resizes it. Both see the same stains and windows of 2048 pixels.
Beyond the image its program pads with empty stains, and a run mirrors the image; group normalisation sees that.
`--on-glass` puts the image in the middle of 2048 x 2048 white pixels, so that windows hold the same in both.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
import zarr
from PIL import Image

from pipelines.shell_network.shell_network import CLASSES, MPP, WINDOW_PX, Rgb, make_bundle, read_whole
from wsi_magnet.config import Execution, RunConfig
from wsi_magnet.errors import WsiMagnetError
from wsi_magnet.segment.slide import segment_slide

Labels = npt.NDArray[np.uint8]

NEEDED = 0.99
"""Least share of pixels with the same label."""


def on_glass(rgb: Rgb) -> Rgb:
    """A picture of at most 2048 pixels a side in the middle of 2048 x 2048 white ones."""
    top, left = ((WINDOW_PX - side) // 2 for side in rgb.shape[:2])
    sheet = np.full((WINDOW_PX, WINDOW_PX, 3), 255, np.uint8)
    sheet[top : top + rgb.shape[0], left : left + rgb.shape[1]] = rgb
    return sheet


def own_program(image: Path, folder: Path) -> Path:
    """Output of the network in its own program before its clean-up: a picture whose bands are lumen and epithelium."""
    program = import_module("shell.infer_wsi")
    raw = folder / "own-raw.tif"
    with warnings.catch_warnings(action="ignore"):
        program.infer_wsi(
            str(image), str(folder / "own.tif"), target_mpp=MPP, mpp=MPP, mode="tile", save_raw=str(raw), device="cpu"
        )
    return raw


def labels_of(raw: Path) -> Labels:
    """Labels of its program: 1 lumen, 2 epithelium, 0 the rest."""
    lumen, epithelium = (tifffile.imread(raw)[..., band] > 0 for band in (0, 1))
    return np.where(lumen, 1, np.where(epithelium, 2, 0)).astype(np.uint8)


def run_here(image: Path, folder: Path, wheel: Path, *, tissue: bool) -> Labels:
    """Labels of a run, in the same numbers. tissue: glass is not computed."""
    bundle = folder / "shell.safetensors"
    spec = make_bundle(image, wheel, bundle, mpp=MPP)
    config = RunConfig(mpp=MPP, tissue=tissue, precision="fp32", tile_px=2048)
    done = segment_slide(
        image, folder, name="run", bundle=bundle, config=config, execution=Execution(device="cpu"), existing="restart"
    )
    mask = np.asarray(zarr.open_array(str(done.folder / "mask.ome.zarr" / "0"), mode="r")[...])
    numbers = {one.value: number for number, one in enumerate(spec.classes)}
    found: Labels = np.vectorize(numbers.__getitem__, otypes=[np.uint8])(mask)
    return found


def shares(own: Labels, here: Labels) -> str:
    """Lines with the share of equal labels, and each class's Dice coefficient."""
    lines = [f"equal labels    {(own == here).mean():9.4%} of {own.size:,} pixels"]
    for number, name in enumerate(CLASSES):
        a, b = own == number, here == number
        dice = 2 * (a & b).sum() / max(1, a.sum() + b.sum())
        lines.append(f"{name:15} {a.mean():9.3%} there {b.mean():9.3%} here   Dice {dice:.4f}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, and print. Returns 0 where at least 99 % of the labels are equal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("image", type=Path)
    parser.add_argument("--mpp", type=float, help="microns per pixel where the image does not state them")
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--on-glass", action="store_true", help="the image in the middle of 2048 x 2048 white pixels")
    parser.add_argument("--raw", type=Path, help="own-raw.tif of an earlier call, whose own program is not run again")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    try:
        rgb = read_whole(given.image, given.mpp)
        image = given.output / "image.png"
        Image.fromarray(on_glass(rgb) if given.on_glass else rgb).save(image)
        begun = time.perf_counter()
        own = labels_of(given.raw or own_program(image, given.output))
        between = time.perf_counter()
        here = run_here(image, given.output, given.wheel, tissue=given.on_glass)
    except WsiMagnetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"own program {between - begun:.0f} s, here {time.perf_counter() - between:.0f} s")
    if given.on_glass:
        top, left = ((WINDOW_PX - side) // 2 for side in rgb.shape[:2])
        inner = np.s_[top : top + rgb.shape[0], left : left + rgb.shape[1]]
        own, here = own[inner], here[inner]
    print(shares(own, here))
    return 0 if (own == here).mean() >= NEEDED else 1


if __name__ == "__main__":
    sys.exit(main())
