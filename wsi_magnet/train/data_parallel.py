"""Data-parallel training: each process computes the gradients of its part of a batch, and these are averaged.

Gradients are averaged by hand, in one message a step, instead of by wrapping a module: the refiners' stage calls
several modules in one step, which a wrapper does not allow.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from wsi_magnet import errors
from wsi_magnet.errors import ConfigError, TrainingError
from wsi_magnet.inference.devices import resolve_device

TIMEOUT = timedelta(hours=2)
"""Time that other processes wait while the first one validates."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Rank of this process and the number of processes; by default a single one."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """True for the process that validates, writes and reports."""
        return self.rank == 0

    def mine(self, count: int) -> range:
        """Indices of this process's items in a batch of `count`."""
        return range(self.rank, count, self.world)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over all processes."""
        if self.world > 1:
            self._average([p.grad for p in parameters if p.grad is not None])

    def average_statistics(self, buffers: Iterable[Tensor]) -> None:
        """Replace the running means of batch normalisation, among a module's buffers, by their mean over all
        processes.
        """
        if self.world > 1:
            self._average(_floats(buffers))

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Replace weights and running means by those of the first process."""
        if self.world > 1:
            _at_once(_floats(tensors), lambda flat: distributed.broadcast(flat, src=0))

    def agree(self, decision: bool) -> bool:
        """The decision of the first process, broadcast to all."""
        if self.world == 1:
            return decision
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        flag = torch.tensor([decision], dtype=torch.uint8, device=device)
        distributed.broadcast(flag, src=0)
        return bool(flag.item())

    def _average(self, tensors: list[Tensor]) -> None:
        def average(flat: Tensor) -> None:
            distributed.all_reduce(flat)
            flat /= self.world

        _at_once(tensors, average)


def _floats(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor.is_floating_point()]


def _at_once(tensors: list[Tensor], change: Callable[[Tensor], object]) -> None:
    """Apply a collective to all tensors in one message; in place."""
    if not tensors:
        return
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    change(flat)
    with torch.no_grad():
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


Work = Callable[[Ranks, torch.device], None]


def devices_of(device: str) -> tuple[torch.device, ...]:
    """The devices that a training uses: all of CUDA's for "auto" and "cuda", the one named, or the CPU.

    Raises ConfigError for a name that is none, or a device that is not here.
    """
    try:
        resolved = resolve_device(device)
    except RuntimeError:
        raise ConfigError(f"device is {device!r}, not auto, cpu, cuda or cuda:N", arguments=("device",)) from None
    if resolved.type == "cuda" and resolved.index is None:
        return tuple(torch.device("cuda", i) for i in range(torch.cuda.device_count()))
    return (resolved,)


def run_on(devices: tuple[torch.device, ...], work: Work) -> None:
    """Call `work` in this process for one device, or in a process a device; `work` can be sent to another process.

    What this package raises in another process is raised here as TrainingError, and so is the end of one.
    """
    if len(devices) == 1:
        work(Ranks(), devices[0])
        return
    # Not as daemons, which may not start processes: a training has loaders.
    context = spawn(_enter, (work, devices, _free_port()), nprocs=len(devices), join=False)
    try:
        while not context.join():
            pass
    except ProcessRaisedException as error:
        kind, _, text = str(error).rstrip().rpartition("\n")[2].partition(": ")
        if not kind.startswith(f"{errors.__name__}."):
            raise
        raise TrainingError(text) from error
    except ProcessExitedException as error:
        raise TrainingError(f"{error}; the same command resumes from the last checkpoint") from error
    finally:
        for process in context.processes:
            process.terminate()  # where this one was interrupted


@contextmanager
def forwarding_progress(notify: Callable[..., None], processes: int) -> Iterator[Callable[..., None]]:
    """Context in which `notify` can be pickled: calls in other processes are forwarded to this one."""
    if processes == 1:
        yield notify
        return
    receiver, sender = get_context("spawn").Pipe(duplex=False)
    listener = Thread(target=_listen, args=(receiver, notify), daemon=True)
    listener.start()
    try:
        yield _ProgressSender(sender)
    finally:
        sender.close()
        listener.join()


@dataclass(frozen=True, slots=True)
class _ProgressSender:
    """Picklable while a process is being started."""

    sender: Connection

    def __call__(self, *what: object) -> None:
        self.sender.send(what)


def _listen(receiver: Connection, notify: Callable[..., None]) -> None:
    # Closed after any error, so that no sender blocks on a full pipe.
    with receiver, suppress(EOFError, ConnectionError):
        while True:
            notify(*receiver.recv())


def _enter(rank: int, work: Work, devices: tuple[torch.device, ...], port: int) -> None:
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    backend = "nccl" if devices[rank].type == "cuda" else "gloo"
    if devices[rank].type == "cuda":
        torch.cuda.set_device(devices[rank])
    distributed.init_process_group(backend, rank=rank, world_size=len(devices), timeout=TIMEOUT)
    try:
        work(Ranks(rank, len(devices)), devices[rank])
    finally:
        distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])
