"""Print the held-out figures of the first bundle.

    python pipelines/evaluate_first_bundle.py --data DIR [--bundle X.safetensors]

DIR holds rings_glands/ and rings_tumour/. mIoU, gland, stroma and background are IoUs in percent on the gland tiles;
benign and tumour the shares of the outlined pixels of the tumour tiles that are told as such.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from first_bundle.config import read_config
from first_bundle.judge import judge, table
from first_bundle.tiles import load_tiles
from wsi_magnet.nets.bundle import load_bundle

CONFIG = Path(__file__).parent / "configs" / "first_bundle.yaml"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", default="default", help="a file; the one that ships where left out")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = read_config(args.config)
    names = config.data.test if args.split == "test" else config.data.validation
    tiles = [tile for tile in load_tiles(args.data, config.data) if tile.name in names]
    print(f"{args.split} tiles: {', '.join(tile.name for tile in tiles)}")
    print(table(judge(tiles, load_bundle(args.bundle))))


if __name__ == "__main__":
    main()
