"""List of the drills: the fault that each injects into a run, and its time limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from drill import clients, disk, network, slides, workers
from drill.scene import Scene


@dataclass(frozen=True, slots=True)
class Drill:
    """A fault, and the function that injects it."""

    name: str
    fault: str
    play: Callable[[Scene], None]
    limit_s: float = 150.0
    """Seconds after which a drill has hung."""


DRILLS = (
    Drill("killed-here", "worker processes of the run killed (`kill -9`)", workers.killed_here),
    Drill("killed-in-cluster", "workers of a cluster killed, with their nannies or without", workers.killed_in_cluster),
    Drill("stopped", "workers stopped beyond the scheduler's patience, continued later", workers.stopped),
    Drill("late", "a worker stopped at its tile, continued when the run was over", workers.stopped_and_late, 180),
    Drill("out-of-memory", "workers out of memory, ended by their nannies", workers.out_of_memory),
    Drill("scheduler", "the scheduler killed, started again at its address", workers.scheduler_restarted),
    Drill("client", "the command killed and typed again, in any way of running", clients.client_killed, 240),
    Drill("batch", "a batch of slides and its workers killed, typed again", clients.batch_killed, 240),
    Drill("two-clients", "two commands at one folder, the first killed", clients.two_clients, 240),
    Drill("client-cut-off", "network between command and scheduler cut for a while", network.client_cut_off, 240),
    Drill("workers-cut-off", "network between scheduler and workers cut for a while", network.workers_cut_off, 240),
    Drill("bad-line", "a network that loses packets in bursts", network.bad_line),
    Drill("cut-for-good", "network cut until the command gave up; mended, typed again", network.cut_for_good, 300),
    Drill("disk-full", "the disk full; room made, typed again", disk.disk_full, 240),
    Drill("unreadable", "a slide that one worker of two cannot open", slides.unreadable_for_one),
    Drill("hollow", "a slide whose pixels one worker of two cannot decode", slides.hollow_for_one),
    Drill("truncated", "the slide truncated while it is read; repaired, restarted", slides.truncated, 240),
    Drill("poison-here", "a tile that kills each process that takes it, own workers", slides.poison_here, 240),
    Drill("poison-in-cluster", "a tile that kills each worker that takes it, a cluster", slides.poison_in_cluster, 240),
)
"""All drills, in the order in which they run and are reported."""
