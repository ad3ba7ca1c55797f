"""Checks of torch, GPUs and the bundle's networks; run in an isolated process."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from wsi_magnet.doctor.check import CheckResult, Request, ok, one_line, problem, problem_from, warning
from wsi_magnet.errors import BundleError, ConfigError
from wsi_magnet.inference.devices import resolve_device
from wsi_magnet.inference.optimize import resolve_precision
from wsi_magnet.nets.bundle import load_bundle
from wsi_magnet.nets.spec import read_spec
from wsi_magnet.text import byte_text, counted


def check_compute(request: Request) -> Iterator[CheckResult]:
    """Check the bundle's tensors, the GPUs, and the device."""
    yield from check_weights(request.bundle)
    device = "auto" if request.remote else request.execution.device
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield check_gpu(index)
    else:
        yield from check_unusable_gpus(device)
    try:
        resolved = resolve_device(device)
    except ConfigError as error:
        yield problem("device", str(error).rpartition("; ")[0] or str(error), "pass --device cpu")
        return
    precision = resolve_precision("auto", resolved)
    yield ok("device", f"torch {torch.__version__} computes on {resolved}; --precision auto means {precision} here")


def check_weights(bundle: str | None) -> Iterator[CheckResult]:
    """Check that a bundle's tensors load; a header that cannot be read is the problem of another check."""
    try:
        read_spec(bundle)
    except BundleError:
        return
    try:
        load_bundle(bundle)
    except BundleError as error:
        yield problem_from("bundle", error, "get the file again")


def check_gpu(index: int) -> CheckResult:
    """Check that a CUDA device computes, and that its memory is free."""
    about = torch.cuda.get_device_properties(index)
    text = f"cuda:{index} {about.name}, compute capability {about.major}.{about.minor}"
    text += f", driver {driver_version() or 'unknown'}, torch for CUDA {torch.version.cuda}"
    try:
        free, total = torch.cuda.mem_get_info(index)
        ones = torch.ones(64, 64, device=f"cuda:{index}")
        error = None if bool((ones @ ones == 64).all()) else "a product of matrices is wrong"
    except RuntimeError as raised:
        error = one_line(raised).partition(". ")[0]
    if error is not None:
        remedy = "install a torch built for this GPU (pytorch.org, Get started), or pass --device cpu"
        return problem("GPU", f"{text}: {error}", remedy)
    text += f"; {byte_text(free)} of {byte_text(total)} free"
    if free < total / 2:
        return warning("GPU", f"{text}: another program uses it", "wait for it, or choose a GPU with --device cuda:N")
    return ok("GPU", text)


def check_unusable_gpus(device: str) -> Iterator[CheckResult]:
    """Explain why torch finds no GPU, if the machine has one or the user requested one."""
    nodes, driver, built_for = len(list(Path("/dev").glob("nvidia[0-9]*"))), driver_version(), torch.version.cuda
    if not (nodes or driver):
        if device.startswith("cuda"):
            yield warning("GPU", "no NVIDIA GPU found", "check that this machine has a GPU and its driver")
        return
    has = f"{counted(nodes, 'NVIDIA GPU')}, driver {driver or 'not loaded'}"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if built_for is None:
        remedy = "to use it, install torch's CUDA build (pytorch.org, Get started)"
        yield warning("GPU", f"{has}, but torch {torch.__version__} is built without CUDA", remedy)
    elif hidden is not None and hidden.strip() in ("", "-1", "NoDevFiles"):
        remedy = "unset CUDA_VISIBLE_DEVICES, or request a GPU from the batch system"
        yield warning("GPU", f"{has}, but CUDA_VISIBLE_DEVICES={hidden!r} hides it", remedy)
    else:
        remedy = f"update the driver to one for CUDA {built_for}, or install a torch for the driver's CUDA"
        yield warning("GPU", f"{has}, but torch for CUDA {built_for} cannot use it: {_cuda_error()}", remedy)


def driver_version(file: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """Version of NVIDIA's kernel module; None without one."""
    try:
        found = re.search(r"Module(?: for \S+)?\s+([\d.]+)", file.read_text())
    except OSError:
        return None
    return found[1] if found else "unknown"


def _cuda_error() -> str:
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return one_line(error).partition(". ")[0]
    return "no device found"
