"""Train the bundle that ships with the package, on the RINGS tiles (CC BY 4.0), on a processor alone.

    python pipelines/train_first_bundle.py --data DIR -o prostate-glands-small.safetensors

DIR holds rings_glands/ and rings_tumour/, each with img/ and mask/. Stopped at any time, the same command goes on from
the checkpoints beside the output. Needs pip install '.[train]'.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import torch

from first_bundle.backbone import train_backbone
from first_bundle.card import describe, specify
from first_bundle.config import read_config
from first_bundle.fit import fit_temperatures, fit_thresholds
from first_bundle.judge import judge, table
from first_bundle.models import Backbone
from first_bundle.refiners import train_refiners
from first_bundle.tiles import load_tiles, training_tiles
from wsi_magnet.nets.bundle import load_bundle, save_bundle

CONFIG = Path(__file__).parent / "configs" / "first_bundle.yaml"


def main() -> None:
    """Train both stages, fit what is fitted, judge on held-out tiles, and write the bundle with its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)

    config = read_config(args.config)
    tiles = load_tiles(args.data, config.data)
    learned = training_tiles(tiles, config.data)
    validation = [tile for tile in tiles if tile.name in config.data.validation]
    held_out = [tile for tile in tiles if tile.name in config.data.test]

    network = train_backbone(learned, config, args.output.with_suffix(".backbone.ckpt"))
    backbone = Backbone(network, fit_temperatures(validation, config.mpps, network))
    refiners = train_refiners(learned, config, backbone, args.output.with_suffix(".refiners.ckpt"))
    thresholds = fit_thresholds(validation, config.mpps, backbone, refiners)

    spec = specify(config, backbone.temperatures, thresholds)
    save_bundle(args.output, spec, network, refiners)
    figures = table(judge(held_out, load_bundle(args.output)))
    save_bundle(args.output, replace(spec, card=describe(figures)), network, refiners)
    print(figures)


if __name__ == "__main__":
    main()
