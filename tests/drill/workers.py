"""Faults of those who compute: workers killed, stopped, out of memory, and a scheduler that goes and comes back."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from functools import partial

import psutil

from tests.drill.cluster import Cluster, Site, signal_group
from tests.drill.company import workers_of
from tests.drill.scene import DrillFailedError, Scene
from tests.drill.stage import environment

KILLS = 3
WORKER_TTL_S = 5
STOPPED_S = 2 * WORKER_TTL_S + 1
BALLOON_LIMIT = "1500MB"


def killed_here(scene: Scene) -> None:
    """SIGKILL to worker processes that the run started itself."""
    typed = scene.type("--workers", "2")
    while scene.injected < KILLS and scene.until_middle(typed):
        workers = workers_of(typed.process)
        if workers:
            scene.rng.choice(workers).kill()
            scene.injected += 1
            scene.note_recovery(typed, other_worker=True)
    scene.finish(typed)
    scene.check()


def killed_in_cluster(scene: Scene) -> None:
    """SIGKILL to workers of a cluster, or of their nannies with them; a supervisor starts others."""
    cluster = Cluster(scene, [Site(), Site()])
    typed = scene.type("--scheduler", cluster.address)
    while scene.injected < KILLS and scene.until_middle(typed):
        nanny = scene.rng.choice(cluster.nannies)
        if scene.injected % 2:
            signal_group(nanny, signal.SIGKILL)
        else:
            for worker in workers_of(nanny):
                worker.kill()
        scene.injected += 1
        scene.note_recovery(typed, other_worker=True)
    scene.finish(typed)
    scene.check()


def stopped(scene: Scene) -> None:
    """SIGSTOP for longer than the scheduler waits for a worker, then SIGCONT.

    First a whole machine (nanny and worker), then a worker alone, then all at once.
    """
    ttl = Site(env={"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": f"{WORKER_TTL_S}s"})
    cluster = Cluster(scene, [Site(), Site()], ttl)
    typed = scene.type("--scheduler", cluster.address)
    for who in ("machine", "worker", "all"):
        if not scene.until_middle(typed, 1, 6):
            break
        nannies = cluster.nannies if who == "all" else [scene.rng.choice(cluster.nannies)]
        pids = [worker for nanny in nannies for worker in workers_of(nanny)]
        for nanny in nannies:
            if who != "worker":
                signal_group(nanny, signal.SIGSTOP)
        for worker in pids if who == "worker" else []:
            worker.suspend()
        scene.injected += 1
        time.sleep(STOPPED_S)
        for worker in pids if who == "worker" else []:
            if worker.is_running():
                worker.resume()
        for nanny in nannies:
            signal_group(nanny, signal.SIGCONT)
        scene.note_recovery(typed)
    scene.finish(typed)
    scene.check()


def out_of_memory(scene: Scene) -> None:
    """Something else in a worker takes memory until its nanny kills it."""
    site = Site(options=("--memory-limit", BALLOON_LIMIT))
    cluster = Cluster(scene, [site, site])
    typed = scene.type("--scheduler", cluster.address)
    for _ in range(2):
        if not scene.until_middle(typed):
            break
        before = cluster.workers
        command = [sys.executable, "-m", "tests.drill.balloon", cluster.address]
        balloon = scene.company.start(command, "balloon", environment())
        scene.until(partial(_one_has_ended, before), "no worker runs out of memory", 60)
        scene.injected += 1
        scene.note_recovery(typed, other_worker=True)
        balloon.wait(30)
    scene.finish(typed)
    if not any("memory" in scene.company.said(nanny) for nanny in cluster.nannies):
        raise DrillFailedError("no nanny tells that a worker used too much memory")
    scene.check()


def _one_has_ended(workers: Sequence[psutil.Process]) -> bool:
    return any(not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE for worker in workers)


def scheduler_restarted(scene: Scene) -> None:
    """SIGKILL to the scheduler; another one starts at its address, and the workers are started anew."""
    cluster = Cluster(scene, [Site(), Site()])
    typed = scene.type("--scheduler", cluster.address)
    while scene.injected < KILLS and scene.until_middle(typed, 1, 8):
        cluster.scheduler.kill()
        scene.injected += 1
        scene.note_recovery(typed)
    scene.finish(typed)
    scene.check()
