"""torch, GPUs, the bundle's networks and a run from end to end, tried in a process of its own."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from wsi_magnet.config import Execution, RunConfig
from wsi_magnet.doctor.apart import one_line
from wsi_magnet.doctor.asked import Asked
from wsi_magnet.doctor.disk import PROBE
from wsi_magnet.doctor.facts import Computing, Gpu, Trial
from wsi_magnet.doctor.made import SIDE_PX, write_slide
from wsi_magnet.errors import BundleError, ConfigError
from wsi_magnet.inference.devices import resolve_device
from wsi_magnet.inference.optimize import resolve_precision
from wsi_magnet.labels import NOT_ANALYSED
from wsi_magnet.nets.bundle import load_bundle
from wsi_magnet.nets.spec import BundleSpec, read_spec
from wsi_magnet.results.pyramid import open_finest
from wsi_magnet.runtime.types import Executor
from wsi_magnet.segment.slide import segment_slide
from wsi_magnet.storage.location import Location, Url, delete, to_location

SLIDE = "made.tif"


def compute_all(asked: Asked) -> Iterator[Computing | Trial]:
    """What torch can compute on; then, unless the work is done elsewhere, a run on this machine.

    With the bundle, or with the one that ships where that is none.
    """
    found = look_at_torch(asked)
    yield found
    bundle = None if found.bundle_error else asked.bundle
    if asked.remote or found.resolved is None or (found.bundle_error and asked.bundle is None):
        return
    with tempfile.TemporaryDirectory() as folder:
        where = None if asked.output is None else to_location(asked.output)
        if not isinstance(where, Url):
            yield try_run(Path(folder), bundle, asked.execution, "here")
            return
        probe = where / f"{PROBE}{secrets.token_hex(4)}"
        try:
            yield try_run(Path(folder), bundle, asked.execution, f"into {where}", output=probe)
        finally:
            with suppress(Exception):  # whatever stands against it was told by the run
                delete(probe)


def look_at_torch(asked: Asked) -> Computing:
    """Its build, the devices it sees, and whether the bundle's tensors can be loaded."""
    available = torch.cuda.is_available()
    try:
        device = resolve_device(asked.own_device)
    except ConfigError:
        device = None
    try:
        load_bundle(asked.bundle)
        bundle_error = None
    except BundleError as error:
        bundle_error = one_line(error)
    return Computing(
        torch.__version__,
        torch.version.cuda,
        None if available or torch.version.cuda is None else _why_not(),
        tuple(_gpu(i) for i in range(torch.cuda.device_count())) if available else (),
        len(list(Path("/dev").glob("nvidia[0-9]*"))),
        driver_version(),
        os.environ.get("CUDA_VISIBLE_DEVICES"),
        asked.own_device,
        None if device is None else str(device),
        "" if device is None else resolve_precision("auto", device),
        bundle_error,
    )


def try_run(
    folder: Path, bundle: str | None, execution: Execution | Executor, where: str, output: Location | None = None
) -> Trial:
    """Make a slide in a folder, segment it there or to `output`, and look at the mask."""
    begun = time.perf_counter()
    try:
        spec, _ = read_spec(bundle)
        write_slide(folder / SLIDE, spec.mpps[-1])
        done = segment_slide(
            folder / SLIDE, output or folder, bundle=bundle, config=RunConfig(tile_px=512), execution=execution
        )
        seconds = time.perf_counter() - begun
        return Trial(where, None, f"{SIDE_PX} x {SIDE_PX}", seconds, _labels(done.folder), _known(spec), done.failures)
    except Exception as error:  # of ours, or whatever a library that is broken raises
        return Trial(where, one_line(error))


def driver_version(file: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """NVIDIA's kernel module; None without one."""
    try:
        found = re.search(r"Module(?: for \S+)?\s+([\d.]+)", file.read_text())
    except OSError:
        return None
    return found[1] if found else "unknown"


def _labels(folder: Location) -> dict[int, int]:
    mask, _ = open_finest(folder / "mask.ome.zarr")
    values, counts = np.unique(mask[...], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _known(spec: BundleSpec) -> tuple[int, ...]:
    return tuple(sorted({0, NOT_ANALYSED, *(c.value for c in spec.classes)}))


def _why_not() -> str:
    """Why torch, built for CUDA, sees no device."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return one_line(error).partition(". ")[0]
    return "it found none"


def _gpu(index: int) -> Gpu:
    about = torch.cuda.get_device_properties(index)
    capability = f"{about.major}.{about.minor}"
    try:
        free, total = torch.cuda.mem_get_info(index)
        ones = torch.ones(64, 64, device=f"cuda:{index}")
        right = bool((ones @ ones == 64).all())
    except RuntimeError as error:
        return Gpu(about.name, about.total_memory, 0, capability, one_line(error).partition(". ")[0])
    return Gpu(about.name, total, free, capability, None if right else "it computes wrongly")
