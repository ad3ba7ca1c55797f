"""Devices of torch: which one to use, its memory, its batch size, and its threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from wsi_magnet.errors import ConfigError

_BATCHES = ((30, 16), (14, 8), (0, 4))
"""Patches in a batch by the GPU's memory in GiB, at least; ResNet50-FPN takes a quarter of a GiB for each."""


def resolve_device(name: str) -> torch.device:
    """The device of that name, "auto" being CUDA where there is one; raises ConfigError for one that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise ConfigError(
            f"device {name}: torch {torch.__version__} sees {found} CUDA devices here; use cpu", arguments=("device",)
        )
    return device


def gpu_gib(device: torch.device) -> float:
    """Memory of a CUDA device, in GiB."""
    return float(torch.cuda.get_device_properties(device).total_memory / 2**30)


def default_batch(device: torch.device) -> int:
    """Patches in a batch where the user gives no number."""
    if device.type != "cuda":
        return 1
    gib = gpu_gib(device)
    return next(patches for least, patches in _BATCHES if gib >= least)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Context in which torch computes this thread's work with one thread: the workers' threads are the parallelism.

    Besides avoiding oversubscription this keeps the order of additions, and with it every bit, the same on any machine
    size.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
