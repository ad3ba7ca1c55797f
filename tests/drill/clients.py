"""Faults of those who type: a command killed and typed again, and two at one folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from tests.drill.cluster import Cluster, Site
from tests.drill.scene import DrillFailedError, Scene, Typed, tile_lines

KILLS = 4


def client_killed(scene: Scene) -> None:
    """SIGKILL to the command, typed again at once: in threads, with workers of its own, on a cluster, in turns."""
    cluster = Cluster(scene, [Site(), Site()])
    ways = [["--workers", "2"], ["--scheduler", cluster.address], []]
    for turn in range(KILLS):
        typed = scene.type(*ways[turn % len(ways)])
        if turn:
            scene.note_recovery(typed)
        if not scene.until_middle(typed, 1, 10):
            break
        typed.process.kill()
        typed.process.wait()
        scene.injected += 1
    last = scene.type(*ways[1])
    scene.note_recovery(last)
    scene.finish(last)
    check_once(scene)
    scene.check()


def two_clients(scene: Scene) -> None:
    """Two commands at one folder: one of them is refused; the other killed, the refused one typed again goes on."""
    cluster = Cluster(scene, [Site(), Site()])
    ways = [["--scheduler", cluster.address], ["--workers", "2"]]
    for turn in range(2):
        pair = []
        for options in ways if turn else reversed(ways):
            pair.append(scene.type(*options))
            time.sleep(scene.rng.random())
        scene.until(partial(_one_has_ended, pair), "both of two at one folder go on")
        refused = next(typed for typed in pair if typed.process.poll() is not None)
        holder = next(typed for typed in pair if typed is not refused)
        if "another run" not in (said := scene.finish(refused, code=1)):
            raise DrillFailedError(f"the second of two at one folder says {said!r}")
        scene.injected += 1
        scene.until_middle(holder, 1, 8)
        holder.process.kill()
        holder.process.wait()
    last = scene.type(*ways[0])
    scene.note_recovery(last)
    scene.finish(last)
    check_once(scene)
    scene.check()
    scene.finish(scene.type())


def _one_has_ended(pair: Sequence[Typed]) -> bool:
    return any(typed.process.poll() is not None for typed in pair)


def check_once(scene: Scene) -> None:
    """No tile that stood in the journal was computed again."""
    keys = [key for key, _ in tile_lines(scene.result)]
    if len(keys) != len(set(keys)):
        raise DrillFailedError(f"{len(keys) - len(set(keys))} tiles stand in the journal twice")
