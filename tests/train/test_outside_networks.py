"""Trainings of networks of timm and segmentation_models_pytorch: the bundle names the package, and can be run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.nets.test_outside import needs_them
from tests.runs import MadeRun, labels_of, run_serially
from tests.slides_made import stained, write_pyramid
from tests.train.made import quick_training, tiny_config, write_data
from wsi_magnet.config import RunConfig
from wsi_magnet.geometry import Size
from wsi_magnet.nets.registry import package_of
from wsi_magnet.nets.spec import read_spec
from wsi_magnet.train.pipeline import train_bundle
from wsi_magnet.train.spec import TrainingSpec


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Validation views of 64 pixels instead of 512, and no picture."""
    with quick_training():
        yield


@needs_them
@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm:test_resnet.r160_in1k", "smp:unet/tu-test_resnet"])
def test_they_are_trained_and_run_whatever_the_tiles(tmp_path: Path, name: str) -> None:
    backbone = {"network": name, "network_args": {}, "encoder_learning_rate": 0.5}
    order = TrainingSpec(write_data(tmp_path), tiny_config(backbone=backbone), tmp_path / "b.safetensors", device="cpu")
    train_bundle(order)
    spec = read_spec(order.output)[0]
    assert (spec.network, spec.network_package) == (name, package_of(name))
    slide = write_pyramid(tmp_path / "s.tif", stained(Size(700, 420)), mpp=1.0, factors=(2, 4))
    masks = []
    for side in (512, 1024):
        config = RunConfig(tile_px=side, tissue=False, precision="fp32")
        masks.append(labels_of(run_serially(MadeRun(slide, order.output), tmp_path / str(side), config).folder))
    assert masks[0].shape == (420, 700)
    assert np.array_equal(masks[0], masks[1])
