"""Batches out of many threads' patches give each patch what it would have got alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.runs import free_spec, write_bundle
from wsi_magnet.config import CELL_PX, RunConfig
from wsi_magnet.errors import ConfigError
from wsi_magnet.geometry import Size
from wsi_magnet.inference.batching import BatchingPredictor, DirectPredictor
from wsi_magnet.inference.cuda import CudaDevice, Launched, PlainDevice, device_of
from wsi_magnet.inference.engine import Engine, PatchInput
from wsi_magnet.inference.tiles import CellPixels
from wsi_magnet.nets.bundle import load_bundle
from wsi_magnet.nets.spec import BundleSpec
from wsi_magnet.planning.plan import ScaleLayout
from wsi_magnet.scales import Scale

FRAMES = [
    ScaleLayout(Scale(index, 2.0 / 2**index, (8 / 2**index,) * 2, Size(9999, 9999)), 0, 2 - index, halo, 2**index, 1024)
    for index, halo in ((0, 128), (1, 32), (2, 32))
]


def engine_of(folder: Path, spec: BundleSpec | None = None, device: str = "cpu", **config: object) -> Engine:
    bundle = load_bundle(write_bundle(folder / "made.safetensors", spec or free_spec()))
    return Engine(bundle, torch.device(device), RunConfig(**config))  # type: ignore[arg-type]


def patch_of(engine: Engine, frame: ScaleLayout, seed: int) -> PatchInput:
    rng = np.random.default_rng(seed)
    side = (CELL_PX + 2 * engine.margin_px(frame)) // 2 + 2
    coarse = rng.integers(1, 256, (engine.classes, side, side), dtype=np.uint8) if frame.scale.index else None
    return PatchInput(rng.integers(0, 256, (frame.patch_px, frame.patch_px, 3), dtype=np.uint8), coarse)


def equal(one: CellPixels, other: CellPixels) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("labels", "uncertainty", "probabilities")
    )


def test_threads_that_share_batches_get_what_each_would_get_alone(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, batch_size=4)
    alone = DirectPredictor(engine_of(tmp_path, batch_size=1))
    shared = BatchingPredictor(engine, PlainDevice(engine))

    def work(thread: int) -> bool:
        frame = FRAMES[1 + thread % 2]
        patches = [(seed, patch_of(engine, frame, seed)) for seed in range(thread * 10, thread * 10 + 3)]
        expected = dict(alone.analyse(patches, frame))
        found = dict(shared.analyse(patches, frame))
        return list(found) == list(expected) and all(equal(found[key], expected[key]) for key in expected)

    with ThreadPoolExecutor(5) as threads:
        assert all(threads.map(work, range(5)))
    shared.close()


def test_keys_come_back_in_order_also_where_patches_are_slow_to_come(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, batch_size=2)
    shared = BatchingPredictor(engine, PlainDevice(engine))

    def slowly() -> Iterator[tuple[int, PatchInput]]:
        for key in range(5):
            torch.rand(1)  # something else goes on
            yield key, patch_of(engine, FRAMES[0], key)

    assert [key for key, _ in shared.analyse(slowly(), FRAMES[0])] == [0, 1, 2, 3, 4]
    shared.close()


class Failing:
    """A device that cannot do what it is asked for."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def launch(self, *_: object) -> Launched:
        """See `Device.launch`."""
        raise self._error


def test_an_error_reaches_those_who_asked_and_the_next_are_answered(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, batch_size=1)
    failing = Failing(RuntimeError("broken"))
    shared = BatchingPredictor(engine, failing)
    with pytest.raises(RuntimeError, match="broken"):
        list(shared.analyse([(0, patch_of(engine, FRAMES[0], 0))], FRAMES[0]))
    failing.launch = PlainDevice(engine).launch  # type: ignore[assignment, method-assign]
    assert len(list(shared.analyse([(0, patch_of(engine, FRAMES[0], 0))], FRAMES[0]))) == 1
    shared.close()


def test_a_gpu_without_enough_memory_says_what_helps(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, batch_size=1)
    shared = BatchingPredictor(engine, Failing(torch.cuda.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(ConfigError, match="1 patches of 768 x 768 pixels; pass a smaller --batch-size"):
        list(shared.analyse([(0, patch_of(engine, FRAMES[0], 0))], FRAMES[0]))
    shared.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_recorded_computation_gives_the_bits_of_the_plain_one(tmp_path: Path, precision: str) -> None:
    spec = replace(free_spec(), network="fpn", refiner="magnet")
    engine = engine_of(tmp_path, spec, "cuda", batch_size=2, precision=precision)
    recorded, plain = device_of(engine), PlainDevice(engine)
    assert isinstance(recorded, CudaDevice)
    seeds = list(range(12))
    random.Random(0).shuffle(seeds)
    for frame in FRAMES:
        batches = [
            engine.batch_of([patch_of(engine, frame, seed), patch_of(engine, frame, seed + 100)]) for seed in seeds
        ]
        launched = [recorded.launch(images, coarse, frame) for images, coarse in batches[-3:]]
        for (images, coarse), one in zip(batches[-3:], launched, strict=True):
            found = [tensor.clone() for tensor in one.results()]
            expected = plain.launch(images, coarse, frame).results()
            assert all(torch.equal(a, b.cpu()) for a, b in zip(found, expected, strict=True))
