"""Batches out of many threads' patches give each patch what it would have got alone."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.runs import free_spec, write_bundle
from wsi_magnet.errors import ConfigError, DeviceError
from wsi_magnet.geometry import Size
from wsi_magnet.inference.batching import _MAX_OVERTAKING, BatchingPredictor, DirectPredictor
from wsi_magnet.inference.cuda import MAX_GRAPHS, CudaDevice, GraphCache, Launched, PlainDevice, device_of
from wsi_magnet.inference.engine import Engine, PatchInput, Results
from wsi_magnet.inference.tiles import CellPixels
from wsi_magnet.nets.bundle import load_bundle
from wsi_magnet.nets.spec import BundleSpec
from wsi_magnet.planning.plan import PatchGeometry, ScaleLayout
from wsi_magnet.scales import Scale

CELL_PX = 64
"""Cells that no bundle has: what holds for them holds for larger ones, and takes a fiftieth of the time."""

GEOMETRIES = [PatchGeometry(index, halo, 2**index, CELL_PX) for index, halo in ((0, 128), (1, 32), (2, 32))]


def engine_of(folder: Path, spec: BundleSpec | None = None, device: str = "cpu", **config: object) -> Engine:
    bundle = load_bundle(write_bundle(folder / "made.safetensors", spec or free_spec()))
    return Engine(bundle, torch.device(device), **config)  # type: ignore[arg-type]


def patch_of(engine: Engine, geometry: PatchGeometry, seed: int) -> PatchInput:
    rng = np.random.default_rng(seed)
    side = (CELL_PX + 2 * engine.margin_px(geometry)) // 2 + 2
    coarse = rng.integers(1, 256, (engine.classes, side, side), dtype=np.uint8) if geometry.index else None
    return PatchInput(rng.integers(0, 256, (geometry.patch_px, geometry.patch_px, 3), dtype=np.uint8), coarse)


def equal(one: CellPixels, other: CellPixels) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("labels", "uncertainty", "probabilities")
    )


def test_threads_that_share_batches_get_what_each_would_get_alone(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, batch_size=4)
    alone = DirectPredictor(engine_of(tmp_path, batch_size=1))
    shared = BatchingPredictor(engine, PlainDevice(engine))

    def work(thread: int) -> bool:
        geometry = GEOMETRIES[1 + thread % 2]
        patches = [(seed, patch_of(engine, geometry, seed)) for seed in range(thread * 10, thread * 10 + 3)]
        expected = dict(alone.predict(patches, geometry))
        found = dict(shared.predict(patches, geometry))
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
            yield key, patch_of(engine, GEOMETRIES[0], key)

    assert [key for key, _ in shared.predict(slowly(), GEOMETRIES[0])] == [0, 1, 2, 3, 4]
    shared.close()


class Failing:
    """A device that cannot do what it is asked for."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def launch(self, *_: object) -> Launched:
        """See `Device.launch`."""
        raise self._error

    def survives(self, error: Exception) -> bool:
        """See `Device.survives`."""
        return True


def test_an_error_reaches_those_who_asked_and_the_next_are_answered(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, batch_size=1)
    failing = Failing(RuntimeError("broken"))
    shared = BatchingPredictor(engine, failing)
    with pytest.raises(RuntimeError, match="broken"):
        list(shared.predict([(0, patch_of(engine, GEOMETRIES[0], 0))], GEOMETRIES[0]))
    failing.launch = PlainDevice(engine).launch  # type: ignore[assignment, method-assign]
    assert len(list(shared.predict([(0, patch_of(engine, GEOMETRIES[0], 0))], GEOMETRIES[0]))) == 1
    shared.close()


def test_a_gpu_without_enough_memory_says_what_helps(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, batch_size=1)
    shared = BatchingPredictor(engine, Failing(torch.cuda.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(ConfigError, match="1 patches of 320 x 320 pixels; choose a smaller batch size"):
        list(shared.predict([(0, patch_of(engine, GEOMETRIES[0], 0))], GEOMETRIES[0]))
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
    for geometry in GEOMETRIES:
        batches = [
            engine.batch_of([patch_of(engine, geometry, seed), patch_of(engine, geometry, seed + 100)])
            for seed in seeds
        ]
        launched = [recorded.launch(images, coarse, geometry) for images, coarse in batches[-3:]]
        for (images, coarse), one in zip(batches[-3:], launched, strict=True):
            found = [tensor.clone() for tensor in one.results()]
            expected = plain.launch(images, coarse, geometry).results()
            assert all(torch.equal(a, b.cpu()) for a, b in zip(found, expected, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_batches_of_alternating_geometries_do_not_share_memory_in_flight(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, replace(free_spec(), network="fpn", refiner="magnet"), "cuda", batch_size=2)
    recorded, plain = device_of(engine), PlainDevice(engine)
    order = [GEOMETRIES[(1, 2, 0)[i % 3]] for i in range(12)]
    batches = [
        engine.batch_of([patch_of(engine, one, i), patch_of(engine, one, 50 + i)]) for i, one in enumerate(order)
    ]
    launched = [recorded.launch(*batch, one) for batch, one in zip(batches, order, strict=True)]  # without waiting
    for one, batch, geometry in zip(launched, batches, order, strict=True):
        expected = plain.launch(*batch, geometry).results()
        assert all(torch.equal(a, b.cpu()) for a, b in zip(one.results(), expected, strict=True))


# ---- several slides ----------------------------------------------------------------------------------------------


def layout_of(index: int, slide: int) -> ScaleLayout:
    """The layout of a scale on slides of different size, mpp and levels."""
    mpp = 2.0 / 2**index
    scale = Scale(index, mpp, (mpp / (0.2 + slide / 10),) * 2, Size(5000 + slide, 4000 - slide))
    return ScaleLayout(scale, slide % 2, 2 - index, 128 if index == 0 else 32, 2**index, 512 * (1 + slide % 2), CELL_PX)


@dataclass
class _Held:
    found: Results
    released: threading.Event

    def results(self) -> Results:
        """See `Launched.results`."""
        return self.found

    def done(self) -> bool:
        """See `Launched.done`."""
        return self.released.is_set()


class Holding(PlainDevice):
    """A device that is never idle until it is released, and knows its batches."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.launches: list[PatchGeometry] = []
        self.launched = threading.Semaphore(0)
        self.released = threading.Event()

    def launch(self, images: Tensor, coarse: Tensor | None, geometry: PatchGeometry) -> Launched:
        """See `Device.launch`."""
        self.launches.append(geometry)
        self.launched.release()
        return _Held(super().launch(images, coarse, geometry).results(), self.released)


def held_predictor(engine: Engine) -> tuple[BatchingPredictor, Holding]:
    """A predictor whose device has one batch, of the coarsest scale, until it is released."""
    device = Holding(engine)
    shared = BatchingPredictor(engine, device)
    shared._submit(patch_of(engine, GEOMETRIES[0], 0), GEOMETRIES[0])
    assert device.launched.acquire(timeout=60)
    return shared, device


def test_the_geometry_is_the_same_for_every_slide() -> None:
    assert [layout_of(i, 0).geometry for i in range(3)] == GEOMETRIES
    assert all(layout_of(i, slide).geometry == GEOMETRIES[i] for i in range(3) for slide in range(4))
    assert len({layout_of(1, slide) for slide in range(4)}) == 4
    assert [layout_of(i, 1).patch_px for i in range(3)] == [one.patch_px for one in GEOMETRIES]


def test_patches_of_two_slides_share_a_batch(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, batch_size=4)
    shared, device = held_predictor(engine)
    requests = [shared._submit(patch_of(engine, g, i), g) for i in range(4) for g in [layout_of(1, i % 2).geometry]]
    assert device.launched.acquire(timeout=60)
    device.released.set()
    assert all(request.result(timeout=60) for request in requests)
    shared.close()
    assert device.launches == [GEOMETRIES[0], GEOMETRIES[1]]


def test_slides_at_different_scales_fill_a_batch_each(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, batch_size=3)
    shared, device = held_predictor(engine)
    geometries = [layout_of(1 + i % 2, i % 2).geometry for i in range(6)]
    requests = [shared._submit(patch_of(engine, one, i), one) for i, one in enumerate(geometries)]
    assert all(device.launched.acquire(timeout=60) for _ in range(2))
    device.released.set()
    assert all(request.result(timeout=60) for request in requests)
    shared.close()
    assert device.launches == GEOMETRIES


def test_a_batch_that_is_not_full_is_overtaken_by_a_few_only(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, batch_size=2)
    shared, device = held_predictor(engine)
    patch, other = patch_of(engine, GEOMETRIES[1], 0), patch_of(engine, GEOMETRIES[2], 0)
    shared._submit(patch, GEOMETRIES[1])
    for _ in range(2 * _MAX_OVERTAKING):
        shared._submit(other, GEOMETRIES[2])
    for _ in range(_MAX_OVERTAKING + 1):
        assert device.launched.acquire(timeout=60)
    assert device.launches[1:] == [*[GEOMETRIES[2]] * _MAX_OVERTAKING, GEOMETRIES[1]]
    device.released.set()
    shared.close()


def test_slides_that_alternate_get_what_each_would_get_alone(tmp_path: Path) -> None:
    engine, alone = engine_of(tmp_path, batch_size=3), DirectPredictor(engine_of(tmp_path, batch_size=1))
    shared = BatchingPredictor(engine, PlainDevice(engine))
    layouts = [layout_of(1 + i % 2, i % 3) for i in range(12)]
    patches = [patch_of(engine, one.geometry, i) for i, one in enumerate(layouts)]
    found = [shared._submit(patch, one.geometry) for patch, one in zip(patches, layouts, strict=True)]
    for cell, patch, one in zip(found, patches, layouts, strict=True):
        ((_, expected),) = alone.predict([(0, patch)], one.geometry)
        assert equal(cell.result(timeout=60), expected)
    shared.close()


# ---- a device that fails -----------------------------------------------------------------------------------------


class FailingLater:
    """A device whose batches are never done; once it has failed `done` raises, as after an asynchronous error."""

    def __init__(self) -> None:
        self.failed = threading.Event()
        self.launched = threading.Semaphore(0)
        self.before_failing: Callable[[], None] = lambda: None

    def launch(self, *_: object) -> Launched:
        """See `Device.launch`."""
        self.launched.release()
        return cast(Launched, self)

    def survives(self, error: Exception) -> bool:
        """See `Device.survives`."""
        return False

    def done(self) -> bool:
        """See `Launched.done`."""
        if self.failed.is_set():
            self.before_failing()
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nfurther lines")
        return False

    def results(self) -> NoReturn:
        """See `Launched.results`."""
        raise AssertionError("never done")


def test_an_error_of_the_device_reaches_every_request_and_all_later_ones(tmp_path: Path) -> None:
    engine, device = engine_of(tmp_path, batch_size=2), FailingLater()
    shared, patch = BatchingPredictor(engine, device), patch_of(engine, GEOMETRIES[0], 0)
    requests = [shared._submit(patch, GEOMETRIES[0]) for _ in range(2)]
    assert device.launched.acquire(timeout=60)  # in flight
    requests += [shared._submit(patch, one) for one in GEOMETRIES]  # in batches that are not full
    device.before_failing = lambda: requests.append(shared._submit(patch, GEOMETRIES[0]))  # in the queue
    device.failed.set()
    for request in requests[:5]:
        with pytest.raises(DeviceError, match=r"cpu failed \(CUDA error: an illegal memory access was encountered\)"):
            request.result(timeout=60)
    with pytest.raises(DeviceError, match="illegal memory access"):
        requests[5].result(timeout=60)
    with pytest.raises(DeviceError, match="illegal memory access") as later:
        list(shared.predict([(0, patch)], GEOMETRIES[0]))
    assert isinstance(later.value.__cause__, RuntimeError)
    shared.close()


class Lost(PlainDevice):
    """A device that fails for good in its second batch: as it is launched, or as its results are waited for."""

    def __init__(self, engine: Engine, *, launching: bool) -> None:
        super().__init__(engine)
        self._launching, self._launches = launching, 0

    def launch(self, images: Tensor, coarse: Tensor | None, geometry: PatchGeometry) -> Launched:
        """See `Device.launch`."""
        self._launches += 1
        if self._launches == 1:
            return super().launch(images, coarse, geometry)
        if self._launching:
            raise RuntimeError("CUDA error: device lost")
        return cast(Launched, self)

    def done(self) -> bool:
        """See `Launched.done`."""
        return True

    def results(self) -> NoReturn:
        """See `Launched.results`."""
        raise RuntimeError("CUDA error: device lost")

    def survives(self, error: Exception) -> bool:
        """See `Device.survives`."""
        return False


@pytest.mark.parametrize("launching", [True, False])
def test_a_device_that_is_lost_in_a_batch_answers_everybody(tmp_path: Path, launching: bool) -> None:
    engine = engine_of(tmp_path, batch_size=1)
    shared, patch = BatchingPredictor(engine, Lost(engine, launching=launching)), patch_of(engine, GEOMETRIES[0], 0)
    assert len(list(shared.predict([(0, patch)], GEOMETRIES[0]))) == 1
    for _ in range(2):
        with pytest.raises(DeviceError, match=r"cpu failed \(CUDA error: device lost\)") as failure:
            list(shared.predict([(0, patch), (1, patch)], GEOMETRIES[0]))
        assert str(failure.value.__cause__) == "CUDA error: device lost"
    shared.close()


def test_cuda_survives_a_lack_of_memory_and_nothing_else_of_its_own() -> None:
    survives = CudaDevice.survives
    device = cast(CudaDevice, None)
    assert survives(device, torch.OutOfMemoryError("CUDA out of memory"))
    assert survives(device, ValueError("shapes"))
    assert not survives(device, RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_a_closed_predictor_accepts_nothing(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, batch_size=2)
    shared = BatchingPredictor(engine, PlainDevice(engine))
    last = shared._submit(patch_of(engine, GEOMETRIES[0], 0), GEOMETRIES[0])
    shared.close()
    assert last.result(timeout=60)
    with pytest.raises(RuntimeError, match="closed"):
        list(shared.predict([(0, patch_of(engine, GEOMETRIES[0], 0))], GEOMETRIES[0]))


class Graph:
    """A recorded computation that says when it is freed."""

    def __init__(self, geometry: PatchGeometry, happened: list[str]) -> None:
        self.index, self._happened = geometry.index, happened
        happened.append(f"record {self.index}")

    def __del__(self) -> None:
        self._happened.append(f"free {self.index}")


def test_a_graph_is_recorded_once_and_freed_only_when_nothing_is_in_flight() -> None:
    happened: list[str] = []
    cache = GraphCache(lambda geometry, _: Graph(geometry, happened), lambda: happened.append("finish"))
    assert cache.newest() is None
    kept = [PatchGeometry(i, 32, 1, CELL_PX) for i in range(MAX_GRAPHS)]
    for one in (*kept, *reversed(kept), *kept):
        assert cache.get(one, []).index == one.index
        assert cache.newest() is cache.get(one, [])
    assert happened == [f"record {i}" for i in range(MAX_GRAPHS)]
    cache.get(kept[0], [])  # the second is now the one that was used longest ago
    cache.get(PatchGeometry(MAX_GRAPHS, 32, 1, CELL_PX), [])
    assert happened[MAX_GRAPHS:] == ["finish", "free 1", f"record {MAX_GRAPHS}"]
    cache.get(kept[0], [])
    assert len(happened) == MAX_GRAPHS + 3
    cache.get(kept[1], [])
    assert happened[-3:] == ["finish", "free 2", "record 1"]


def test_a_recording_that_fails_leaves_the_cache_usable() -> None:
    errors = [torch.OutOfMemoryError("CUDA out of memory")]

    def record(geometry: PatchGeometry, _: object) -> PatchGeometry:
        if errors:
            raise errors.pop()
        return geometry

    cache = GraphCache(record, lambda: None)
    with pytest.raises(torch.OutOfMemoryError):
        cache.get(GEOMETRIES[0], [])
    assert cache.newest() is None
    assert cache.get(GEOMETRIES[0], []) == GEOMETRIES[0]
