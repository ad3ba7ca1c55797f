"""A cluster's workers asked: each looks at what it has, at the bundle, at OUT and at the slide; then a run on them."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from wsi_magnet.doctor import cluster_verdicts, computing_verdicts
from wsi_magnet.doctor.apart import one_line, within
from wsi_magnet.doctor.asked import Asked
from wsi_magnet.doctor.cluster_facts import Client, Cluster, WorkerFacts
from wsi_magnet.doctor.computing import try_run
from wsi_magnet.doctor.disk import PROBE, there_already
from wsi_magnet.doctor.facts import BundleFacts, Cost, Ended, SlideFacts, Trial
from wsi_magnet.doctor.report import Report
from wsi_magnet.doctor.worker import LOCK, TOKEN, WORKERS, AskWorker, Probe, all_versions
from wsi_magnet.errors import WsiMagnetError
from wsi_magnet.nets.spec import bundle_path
from wsi_magnet.runtime.types import Executor
from wsi_magnet.segment.run import start
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location, delete, make_folder, names, replace_bytes, to_location

START_S, ANSWER_S, TRIAL_S, CLOSE_S = 90.0, 120.0, 600.0, 20.0
"""How long the workers may take to be there, to look at everything, to segment a small slide, and to be let go."""

SEEN_AFTER_S = 10.0
"""How long what a worker wrote may take to be seen here."""


def examine_cluster(report: Report, asked: Asked) -> None:
    """Ask all workers, and have them segment a small slide in OUT if nothing they said stands against it."""
    executor = _reach(asked)
    if isinstance(executor, Ended):
        report.add(executor, cluster_verdicts.unreachable(executor, asked.execution.cluster))
        return
    try:
        with _probe(asked) as probe:
            before = report.problems
            _ask(report, asked, executor, probe)
            folder = None if probe.folder is None else to_location(probe.folder)
            # In an object store there is no slide to be made: slides are files.
            if report.problems == before and isinstance(folder, Path):
                found = _run_there(asked, executor, folder)
                report.add(found, computing_verdicts.trial(found))
    finally:
        within(CLOSE_S, executor.close, during="leaving the cluster")


def _reach(asked: Asked) -> Executor | Ended:
    """The workers. Those of a cluster of one's own are waited for as long as its file says, and let go of if not."""
    during = "reaching the cluster"
    if asked.execution.cluster is None:
        return within(START_S, lambda: start(asked.execution), during=during)
    try:
        return start(asked.execution)
    except (WsiMagnetError, OSError) as error:
        return Ended(during, one_line(error))


def _ask(report: Report, asked: Asked, executor: Executor, probe: Probe) -> None:
    begun = time.time()
    scheduler_info = within(ANSWER_S, executor.scheduler_info, during="asking the scheduler")
    if isinstance(scheduler_info, Ended):
        report.add(scheduler_info, cluster_verdicts.unreachable(scheduler_info, asked.execution.cluster))
        return
    answers = within(ANSWER_S, lambda: executor.on_each_worker(AskWorker(), probe), during="asking the workers")
    if isinstance(answers, Ended):
        again = within(ANSWER_S, executor.scheduler_info, during="asking the scheduler")
        report.add(answers, cluster_verdicts.unanswered(answers, scheduler_info if isinstance(again, Ended) else again))
        return
    found = Cluster(
        executor.description,
        (begun, time.time()),
        scheduler_info.scheduler_versions,
        scheduler_info.members,
        {a: _why(a, f) if isinstance(f, WsiMagnetError) else f for a, f in answers.items()},
        (),
    )
    if probe.folder is not None:
        found = _looked_for(found, to_location(probe.folder))
    report.add(found, cluster_verdicts.cluster(found, _client(report, asked, probe), report.found(Cost)))


def _why(address: str, error: WsiMagnetError) -> str:
    return one_line(error).removeprefix(f"the worker {address} did not answer ").strip("()")


def _client(report: Report, asked: Asked, probe: Probe) -> Client:
    bundle: BundleFacts | None = report.found(BundleFacts)
    slide: SlideFacts | None = report.found(SlideFacts)
    return Client(
        socket.gethostname(),
        all_versions(),
        bundle.sha256 if bundle and bundle.error is None else None,
        slide.identity if slide and slide.error is None else None,
        asked.output if probe.folder else None,
        asked.slide,
        asked.execution.device,
    )


def _run_there(asked: Asked, executor: Executor, folder: Path) -> Trial:
    where = "on the cluster"
    bundle = None if asked.bundle is None else str(bundle_path(asked.bundle).absolute())
    found = within(TRIAL_S, lambda: try_run(folder, bundle, executor, where), during="the trial run")
    return Trial(where, found.how) if isinstance(found, Ended) else found


@contextmanager
def _probe(asked: Asked) -> Iterator[Probe]:
    """What workers are to look for in OUT, with a lock held on it; deleted again."""
    bundle = None if asked.bundle is None else str(bundle_path(asked.bundle).absolute())
    slide = None if asked.slide is None else str(Path(asked.slide).expanduser().absolute())
    token = secrets.token_hex(16)
    folder = None if asked.output is None else _make(asked.output, token)
    if folder is None:
        yield Probe(bundle, slide, None, token)
        return
    try:
        with _held(folder):
            yield Probe(bundle, slide, str(folder), token)
    finally:
        with suppress(Exception):
            delete(folder)


@contextmanager
def _held(folder: Location) -> Iterator[None]:
    """Within it a file is locked, where there are files."""
    if not isinstance(folder, Path):
        yield
        return
    lock = FileLock(folder / LOCK)
    try:
        with suppress(OSError, NotImplementedError):
            lock.acquire(timeout=0)
        yield
    finally:
        lock.release()


def _make(output: str, token: str) -> Location | None:
    """A folder as a run would make it; None where that does not work, of which the lines above have told."""
    try:
        where = to_location(output).absolute()
        folder = (there_already(where) if isinstance(where, Path) else where) / f"{PROBE}{secrets.token_hex(4)}"
        with storage_errors(folder):
            make_folder(folder)
            replace_bytes(folder / TOKEN, token.encode())
    except WsiMagnetError:
        return None
    return folder


def _looked_for(found: Cluster, folder: Location) -> Cluster:
    """With the workers of which nothing is seen here though they wrote."""
    wrote = {
        address: f"{WORKERS}{facts.host}-{facts.pid}"
        for address, facts in found.answers.items()
        if isinstance(facts, WorkerFacts) and facts.output is None
    }
    deadline = time.monotonic() + SEEN_AFTER_S
    while True:
        there = set(names(folder))
        unseen = tuple(address for address, name in wrote.items() if name not in there)
        if not unseen or time.monotonic() > deadline:
            return replace(found, unseen=unseen)
        time.sleep(0.5)
