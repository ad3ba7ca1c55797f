"""Faults of workers and scheduler: killed, stopped, out of memory, restarted."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from functools import partial

import psutil

from drill.cluster import Cluster, Site, signal_group
from drill.processes import workers_of
from drill.scene import DrillFailedError, Scene
from drill.stage import environment

KILLS = 3
WORKER_TTL_S = 10
STOPPED_S = 2 * WORKER_TTL_S
LATE_S = 3
"""Seconds in which a worker finishes what it had started."""

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
    """SIGSTOP to a nanny and its worker, and to all, for longer than the scheduler waits for a worker; then SIGCONT."""
    cluster = Cluster(scene, [Site(), Site()], _impatient())
    typed = scene.type("--scheduler", cluster.address)
    for all_of_them in (False, True):
        if not scene.until_middle(typed, 1, 6):
            break
        nannies = cluster.nannies if all_of_them else [scene.rng.choice(cluster.nannies)]
        for nanny in nannies:
            signal_group(nanny, signal.SIGSTOP)
        scene.injected += 1
        time.sleep(STOPPED_S)
        for nanny in nannies:
            signal_group(nanny, signal.SIGCONT)
        scene.note_recovery(typed)
    scene.finish(typed)
    scene.check()


def stopped_and_late(scene: Scene) -> None:
    """SIGSTOP to a nanny and its busy worker, and SIGCONT after the run has finished without them."""
    cluster = Cluster(scene, [Site(), Site()], _impatient())
    typed = scene.type("--scheduler", cluster.address)
    scene.until_middle(typed)
    nanny = scene.rng.choice(cluster.nannies)
    signal_group(nanny, signal.SIGSTOP)
    scene.injected += 1
    scene.note_recovery(typed)
    scene.finish(typed)
    signal_group(nanny, signal.SIGCONT)
    time.sleep(LATE_S)
    scene.check()


def _impatient() -> Site:
    """Site of a scheduler that soon gives up a silent worker."""
    return Site(env={"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": f"{WORKER_TTL_S}s"})


def out_of_memory(scene: Scene) -> None:
    """Other code in a worker allocates memory until the nanny kills it."""
    site = Site(options=("--memory-limit", BALLOON_LIMIT))
    cluster = Cluster(scene, [site, site])
    typed = scene.type("--scheduler", cluster.address)
    for _ in range(2):
        if not scene.until_middle(typed):
            break
        before = cluster.workers
        command = [sys.executable, "-m", "drill.balloon", cluster.address]
        balloon = scene.processes.start(command, "balloon", environment())
        scene.until(partial(_one_has_finished, before), "no worker runs out of memory", 60)
        scene.injected += 1
        scene.note_recovery(typed, other_worker=True)
        balloon.wait(30)
    scene.finish(typed)
    if not any("memory" in scene.processes.errors(nanny) for nanny in cluster.nannies):
        raise DrillFailedError("no nanny reports that a worker used too much memory")
    scene.check()


def _one_has_finished(workers: Sequence[psutil.Process]) -> bool:
    return any(not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE for worker in workers)


def scheduler_restarted(scene: Scene) -> None:
    """SIGKILL to the scheduler; another one starts at its address, and the workers are restarted."""
    cluster = Cluster(scene, [Site(), Site()])
    typed = scene.type("--scheduler", cluster.address)
    while scene.injected < KILLS and scene.until_middle(typed, 1, 8):
        cluster.scheduler.kill()
        scene.injected += 1
        scene.note_recovery(typed)
    scene.finish(typed)
    scene.check()
