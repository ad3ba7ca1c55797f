"""The worker context: small to send, and idle ones keep no decoded pictures but the one used last."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.runs import free_spec, write_bundle
from wsi_magnet.config import RunConfig
from wsi_magnet.geometry import Box, Size
from wsi_magnet.nets.spec import read_spec
from wsi_magnet.planning.plan import ScaleLayout
from wsi_magnet.results.folder import Products
from wsi_magnet.scales import Scale
from wsi_magnet.slides.image import DecodedPixels, ImageReader
from wsi_magnet.slides.registry import open_slide
from wsi_magnet.slides.slide import Slide
from wsi_magnet.storage.location import Url
from wsi_magnet.worker.cache import ResourceCache
from wsi_magnet.worker.context import RunSpec, WorkerContext, _decoded_bytes, count_read_threads

SIZE = Size(60, 50)
LAYOUTS = tuple(
    ScaleLayout(Scale(i, 2.0 / 2**i, (8.0 / 2**i,) * 2, Size(90_000, 70_000)), 0, 2 - i, 32, 2**i, 1024)
    for i in range(3)
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunSpec]:
    """Runs over three pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    bundle = write_bundle(folder / "free.safetensors", free_spec())
    sha256 = read_spec(bundle)[1]
    made = []
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE.hw, 3), dtype=np.uint8)
        slide = folder / f"{seed}.png"
        Pillow.fromarray(pixels).save(slide)
        identity = open_slide(slide, mpp=0.5).info.identity
        products = Products((SIZE,), 3, "0.4", 512, False, False)
        config = RunConfig(mpp=0.5)
        made.append(
            RunSpec(str(slide), identity, str(bundle), sha256, folder / "out", config, LAYOUTS, products, "cpu", None)
        )
    return made


def picture_of(context: WorkerContext) -> DecodedPixels:
    assert isinstance(context.reader, Slide)
    reader = context.reader._reader
    assert isinstance(reader, ImageReader)
    assert isinstance(reader._pixels, DecodedPixels)
    return reader._pixels


def test_idle_contexts_hold_no_decoded_picture_but_the_last(runs: list[RunSpec]) -> None:
    cache = ResourceCache(WorkerContext, idle=4, idle_bytes=SIZE.pixels * 3, size=_decoded_bytes)
    pictures = []
    for run in runs:
        with cache.borrow(run) as context:
            context.reader.read_level(0, Box(0, 0, 5, 5))
            pictures.append(picture_of(context))
    assert [picture._image is not None for picture in pictures] == [False, False, True]
    with cache.borrow(runs[-1]) as context:
        assert picture_of(context) is pictures[-1]
    cache.discard(runs[-1])
    assert pictures[-1]._image is None


def test_contexts_share_networks(runs: list[RunSpec]) -> None:
    cache = ResourceCache(WorkerContext, idle=0)
    with cache.borrow(runs[0]) as one, cache.borrow(runs[1]) as other:
        assert one.engine is other.engine
        assert one.reader is not other.reader


@pytest.mark.parametrize("folder", [Path("/results/slide"), Url("s3", "bucket/results/slide")])
def test_a_run_is_small_to_send_and_stays_the_same_key(runs: list[RunSpec], folder: Path | Url) -> None:
    run = replace(runs[0], folder=folder)
    sent = pickle.dumps(run)
    assert len(sent) < 3000
    assert pickle.loads(sent) == run
    assert hash(pickle.loads(sent)) == hash(run)


@pytest.mark.parametrize(
    ("device", "cores", "threads"),
    [("cpu", 1, 1), ("cpu", 3, 3), ("cpu", 8, 4), ("cpu", 11, 6), ("cpu", 64, 32), ("cuda", 2, 4), ("cuda", 16, 16)],
)
def test_read_threads_grow_with_the_cores(device: str, cores: int, threads: int) -> None:
    assert count_read_threads(device, cores) == threads
