"""Checks of a cluster: each worker reports what it has and sees, and the reports are compared with this machine's."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from wsi_magnet.config import Execution
from wsi_magnet.doctor.check import (
    CheckResult,
    Needs,
    Request,
    Status,
    call_within,
    ok,
    one_line,
    problem,
    problem_from,
    warning,
)
from wsi_magnet.doctor.machine import memory_limit
from wsi_magnet.doctor.output import PROBE, nearest_existing
from wsi_magnet.doctor.software import shared_versions
from wsi_magnet.errors import WsiMagnetError
from wsi_magnet.nets.spec import bundle_path, read_spec
from wsi_magnet.runtime.isolation import run_isolated
from wsi_magnet.runtime.types import Executor, SchedulerInfo
from wsi_magnet.slides.openslide import openslide_versions
from wsi_magnet.slides.registry import open_slide
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import (
    Location,
    delete,
    exists,
    make_folder,
    names,
    read_bytes,
    replace_bytes,
    to_location,
)
from wsi_magnet.text import byte_text, counted

START_S, ANSWER_S, CLOSE_S, SEEN_S = 90.0, 120.0, 20.0, 10.0
"""Longest waits for the scheduler, for the workers' reports, for leaving the cluster, and until a file that one
machine wrote is seen on another."""

MUST_EQUAL = {"python", "wsi-magnet", "torch", "dask", "distributed", "cloudpickle", "numpy", "zarr", "OpenSlide"}
"""Versions that must not differ: Dask could not talk, tasks not be unpacked, or masks would differ. A difference in
others is a warning. Python counts with its first two numbers."""

SCHEDULER_MUST_EQUAL = {"dask", "distributed", "msgpack", "cloudpickle", "toolz", "tornado"}
"""A scheduler computes nothing, so only Dask's own parts count."""

TOKEN, LOCK, WORKER = "token", "lock", "worker-"
"""Names in the probe's folder: the client's token, its lock, and the prefix of the workers' files."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Files and folder that a worker checks."""

    bundle: str | None
    slide: str | None
    folder: str | None = None
    """Folder or URL below OUT that the client created; None without OUT."""
    token: str = ""
    """Content of the client's file there: a folder of the same name on another disk does not have it."""


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """Versions, devices and files of a worker, or of the client."""

    host: str
    pid: int
    versions: Mapping[str, str]
    """By package, with "python" and "OpenSlide"."""
    memory_limit_bytes: int | None
    cuda_devices: int
    bundle_sha256: str | None
    bundle_error: str | None
    slide_identity: str | None
    slide_error: str | None
    output_error: str | None
    """None if the probe was found and a file could be written beside it."""
    lock_taken: bool
    """True if the worker got a lock that the client held."""


def check_cluster(request: Request, needs: Needs) -> Iterator[CheckResult]:
    """Connect to the cluster, or start it, have every worker report, and compare the reports with this machine."""
    try:
        executor = _connect(request.execution)
    except (WsiMagnetError, OSError) as error:
        file = request.execution.cluster
        running = "check that the scheduler runs and that this machine can reach it"
        yield problem_from("cluster", error, f"check {file}" if file else running)
        return
    try:
        with _probe(request) as probe:
            yield from _check_workers(executor, probe, request, needs)
    finally:
        with suppress(Exception):
            call_within(CLOSE_S, executor.close)


def _connect(execution: Execution) -> Executor:
    from wsi_magnet.segment.executors import start_workers

    if execution.cluster is not None:
        return start_workers(execution)  # waits for its jobs as long as the file says
    return call_within(START_S, lambda: start_workers(execution))


def _check_workers(executor: Executor, probe: Probe, request: Request, needs: Needs) -> Iterator[CheckResult]:
    try:
        client: WorkerReport = run_isolated(report_worker, replace(probe, folder=None), timeout_s=ANSWER_S)
        info = call_within(ANSWER_S, executor.scheduler_info)
        answers = call_within(ANSWER_S, lambda: executor.on_each_worker(report_worker, probe))
    except (WsiMagnetError, OSError) as error:
        remedy = "check whether workers hang (a file system without answer, a stopped process), and start them again"
        yield problem_from("workers", error, remedy)
        return
    reports = {address: one for address, one in answers.items() if isinstance(one, WorkerReport)}
    errors = {address: one_line(one) for address, one in answers.items() if isinstance(one, WsiMagnetError)}
    remedy = f"install wsi-magnet {client.versions['wsi-magnet']} and its packages there, as here"
    yield from _by_text("workers", errors, {}, remedy)
    if reports:
        unseen = [] if probe.folder is None else _unseen(reports, to_location(probe.folder))
        yield from compare_workers(reports, client, info, request, needs, unseen)


def compare_workers(
    reports: Mapping[str, WorkerReport],
    client: WorkerReport,
    info: SchedulerInfo,
    request: Request,
    needs: Needs,
    unseen: Sequence[str] = (),
) -> Iterator[CheckResult]:
    """Results from the workers' reports, by address. unseen: workers whose file in OUT the client does not see."""
    hosts = len({one.host for one in reports.values()})
    threads = sum(one.threads for one in info.workers.values())
    text = f"{counted(len(reports), 'worker')} on {counted(hosts, 'host')}, {counted(threads, 'thread')}"
    yield ok("workers", text)
    yield from _versions(reports, client, info)
    if client.bundle_error is None:
        yield from _bundle(reports, client)
    yield from _output(reports, request.output, unseen)
    if request.slide is not None and client.slide_error is None:
        yield from _slide(reports, client, request.slide)
    yield from _gpus(reports, info, request.execution.device)
    yield from _memory(reports, info, needs)


def _versions(reports: Mapping[str, WorkerReport], client: WorkerReport, info: SchedulerInfo) -> Iterator[CheckResult]:
    wrong: dict[str, str] = {}
    other: dict[str, str] = {}
    for address, one in reports.items():
        for name, here in client.versions.items():
            there = one.versions.get(name, "unknown")
            if _comparable(name, there) != _comparable(name, here):
                kept = wrong if name in MUST_EQUAL else other
                kept[address] = ", ".join(filter(None, [kept.get(address), f"{name} {there} (here {here})"]))
    remedy = "install the same versions on both sides, best from one lock file or one container"
    yield from _by_text("versions", wrong, reports, remedy)
    yield from _by_text("versions", other, reports, remedy, "warning")
    if not wrong and not other:
        yield ok("versions", "all workers have this machine's")
    scheduler = ", ".join(
        f"{name} {there} (here {client.versions[name]})"
        for name, there in info.scheduler_versions.items()
        if name in SCHEDULER_MUST_EQUAL and client.versions.get(name, there) != there
    )
    if scheduler:
        yield problem("scheduler", scheduler, "start the scheduler in the environment of client and workers")


def _bundle(reports: Mapping[str, WorkerReport], client: WorkerReport) -> Iterator[CheckResult]:
    wrong = {
        address: one.bundle_error or f"another file than here (sha256 {one.bundle_sha256})"
        for address, one in reports.items()
        if one.bundle_sha256 != client.bundle_sha256
    }
    remedy = "put the bundle where all workers see it under the same path, or copy the same file to each"
    yield from _by_text("bundle", wrong, reports, remedy, good="the same file on all workers")


def _output(reports: Mapping[str, WorkerReport], output: str | None, unseen: Sequence[str]) -> Iterator[CheckResult]:
    if output is None:
        yield warning("output", "not checked on the workers", "pass -o OUT, the folder of the results")
        return
    wrong = {a: f"{output}: {one.output_error}" for a, one in reports.items() if one.output_error is not None}
    remedy = "choose a folder that client and workers share under the same path and may write to"
    yield from _by_text("output", wrong, reports, remedy)
    late = dict.fromkeys(unseen, f"{output}: the worker's file is not seen here")
    yield from _by_text("output", late, reports, "mount the same file system everywhere (NFS: with a short actimeo)")
    taken = {a: f"{output}: a lock held here was given to the worker too" for a, o in reports.items() if o.lock_taken}
    remedy = "mount it with locks across hosts (Lustre: -o flock; NFS: without nolock and local_lock), or let only one "
    yield from _by_text("output", taken, reports, remedy + "host write a result", "warning")
    if not (wrong or late or taken):
        yield ok("output", f"{output}: all workers write to the same place as this machine")


def _slide(reports: Mapping[str, WorkerReport], client: WorkerReport, slide: str) -> Iterator[CheckResult]:
    wrong = {
        address: f"{slide}: {one.slide_error or 'another slide than here'}"
        for address, one in reports.items()
        if one.slide_identity != client.slide_identity
    }
    remedy = "put the slides where all workers see them under the same path as here"
    yield from _by_text("slide", wrong, reports, remedy, good="opens on all workers")


def _gpus(reports: Mapping[str, WorkerReport], info: SchedulerInfo, device: str) -> Iterator[CheckResult]:
    declared = {a for a, member in info.workers.items() if member.resources.get("GPU", 0) > 0}
    remedy = "start workers that have a GPU with `dask worker ... --resources GPU=1`"
    if device.startswith("cuda") and not declared:
        yield problem("GPU", f"--device {device}, but no worker declares a GPU", remedy)
    else:
        idle = {a: "a GPU that is not declared, so unused" for a, o in reports.items() if o.cuda_devices}
        idle = {a: text for a, text in idle.items() if a not in declared}
        yield from _by_text("GPU", idle, reports, remedy, "warning")
    empty = {a: "declares a GPU, but torch finds none" for a, o in reports.items() if a in declared}
    empty = {a: text for a, text in empty.items() if not reports[a].cuda_devices}
    good = f"declared by {counted(len(declared), 'worker')}, and found by torch there" if declared else ""
    remedy = "check torch and the driver there, or start these workers without --resources GPU=..."
    yield from _by_text("GPU", empty, reports, remedy, good=good)


def _memory(reports: Mapping[str, WorkerReport], info: SchedulerInfo, needs: Needs) -> Iterator[CheckResult]:
    small: dict[str, str] = {}
    for address, one in reports.items():
        member = info.workers.get(address)
        threads = member.threads if member else 1
        limits = [b for b in (one.memory_limit_bytes, member.memory_limit_bytes if member else None) if b]
        takes = needs.memory_bytes(1, threads)
        if limits and min(limits) < takes:
            allowed = f"{byte_text(min(limits))} allowed"
            small[address] = f"{allowed}, but a run takes about {byte_text(takes)} for {counted(threads, 'thread')}"
    remedy = "start workers with more memory (--memory-limit, or the batch system's), or with fewer --nthreads"
    yield from _by_text("memory", small, reports, remedy, good="enough on all workers")


def _by_text(
    subject: str,
    texts: Mapping[str, str],
    reports: Mapping[str, WorkerReport],
    remedy: str,
    status: Status = "problem",
    *,
    good: str = "",
) -> Iterator[CheckResult]:
    """One result for each different text, naming the workers that have it; without any, that all is good."""
    addresses: dict[str, list[str]] = defaultdict(list)
    for address, text in texts.items():
        addresses[text].append(address)
    for text, ones in addresses.items():
        named = ", ".join(f"{a} on {reports[a].host}" if a in reports else a for a in ones[:2])
        more = f" and {len(ones) - 2} more" if len(ones) > 2 else ""
        who = f"all {len(ones)} workers" if len(ones) == len(reports) > 1 else f"{named}{more}"
        yield CheckResult(subject, status, f"{who}: {text}", remedy)
    if not texts and good:
        yield ok(subject, good)


def _comparable(name: str, version: str) -> str:
    return ".".join(version.split(".")[:2]) if name == "python" else version


@contextmanager
def _probe(request: Request) -> Iterator[Probe]:
    """The probe, with a folder below OUT in which a lock is held; the folder is deleted at the end."""
    bundle = None if request.bundle is None else str(bundle_path(request.bundle).absolute())
    slide = None if request.slide is None else str(Path(request.slide).expanduser().absolute())
    probe = Probe(bundle, slide, token=secrets.token_hex(16))
    folder = None if request.output is None else _make_folder(request.output, probe.token)
    if folder is None:
        yield probe
        return
    lock = FileLock(folder / LOCK) if isinstance(folder, Path) else None
    try:
        if lock is not None:
            with suppress(OSError, NotImplementedError):
                lock.acquire(timeout=0)
        yield replace(probe, folder=str(folder))
    finally:
        if lock is not None:
            lock.release()
        with suppress(Exception):
            delete(folder)


def _make_folder(output: str, token: str) -> Location | None:
    """Make a folder with the token below OUT; None if it cannot be written, which the check of OUT has reported."""
    try:
        where = to_location(output).absolute()
        folder = (nearest_existing(where) if isinstance(where, Path) else where) / f"{PROBE}{secrets.token_hex(4)}"
        with storage_errors(folder):
            make_folder(folder)
            replace_bytes(folder / TOKEN, token.encode())
    except WsiMagnetError:
        return None
    return folder


def _unseen(reports: Mapping[str, WorkerReport], folder: Location) -> list[str]:
    """Workers whose file does not appear here in time."""
    wrote = {a: f"{WORKER}{one.host}-{one.pid}" for a, one in reports.items() if one.output_error is None}
    deadline = time.monotonic() + SEEN_S
    while True:
        there = set(names(folder))
        unseen = [address for address, name in wrote.items() if name not in there]
        if not unseen or time.monotonic() > deadline:
            return unseen
        time.sleep(0.5)


def report_worker(probe: Probe) -> WorkerReport:
    """The report of this process; errors are part of it. Runs on workers, and isolated on the client."""
    import torch  # slow, and it may crash

    try:
        library = openslide_versions()[0]
    except WsiMagnetError:
        library = "cannot be loaded"
    bundle_sha256 = bundle_error = slide_identity = slide_error = None
    try:
        bundle_sha256 = read_spec(probe.bundle)[1]
    except WsiMagnetError as error:
        bundle_error = one_line(error)
    if probe.slide is not None:
        try:
            with closing(open_slide(probe.slide)) as reader:
                slide_identity = reader.info.identity
        except (WsiMagnetError, OSError) as error:
            slide_error = one_line(error)
    folder = None if probe.folder is None else to_location(probe.folder)
    output_error = None if folder is None else _write_beside(folder, probe.token)
    return WorkerReport(
        host=socket.gethostname(),
        pid=os.getpid(),
        versions={**shared_versions(), "OpenSlide": library},
        memory_limit_bytes=memory_limit(),
        cuda_devices=torch.cuda.device_count() if torch.cuda.is_available() else 0,
        bundle_sha256=bundle_sha256,
        bundle_error=bundle_error,
        slide_identity=slide_identity,
        slide_error=slide_error,
        output_error=output_error,
        lock_taken=isinstance(folder, Path) and output_error is None and _takes_lock(folder / LOCK),
    )


def _write_beside(folder: Location, token: str) -> str | None:
    """Write a file beside the client's token; returns what is wrong, or None."""
    deadline = time.monotonic() + SEEN_S / 2
    try:
        with storage_errors(folder):
            while not exists(folder / TOKEN):
                if time.monotonic() > deadline:
                    return "not there"
                time.sleep(0.5)
            if read_bytes(folder / TOKEN) != token.encode():
                return "another folder than here"
            replace_bytes(folder / f"{WORKER}{socket.gethostname()}-{os.getpid()}", token.encode())
    except WsiMagnetError as error:
        return one_line(error)
    return None


def _takes_lock(file: Path) -> bool:
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError, NotImplementedError):
        return False
    lock.release()
    return True
