"""Faults of those who type: a command killed and typed again, and two at one folder."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from functools import partial

from drill.cluster import Cluster, Site
from drill.company import workers_of
from drill.scene import DrillFailedError, Scene, Typed, tile_lines

KILLS = 3
BATCH_KILLS = 2


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
    check_once(last)
    scene.check()


def batch_killed(scene: Scene) -> None:
    """SIGKILL to a batch of slides, typed again at once; and to one of its workers meanwhile."""
    slides = scene.folder / "slides"
    slides.mkdir()
    for name in ("first", "second"):
        shutil.copyfile(scene.stage.slide, slides / f"{name}.tif")
    for turn in range(BATCH_KILLS):
        typed = scene.type_batch(slides, "--workers", "2")
        if turn:
            scene.note_recovery(typed)
        if workers := workers_of(typed.process) if scene.until_middle(typed, 1, 10) else []:
            scene.rng.choice(workers).kill()
            scene.injected += 1
        if not scene.until_middle(typed, 1, 16):
            break
        typed.process.kill()
        typed.process.wait()
        scene.injected += 1
    last = scene.type_batch(slides, "--workers", "2")
    scene.finish(last)
    check_once(last)
    for result in last.results:
        scene.check(result)


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
        refused = next(typed for typed in pair if typed.ended)
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
    check_once(last)
    scene.check()
    scene.finish(scene.type())


def _one_has_ended(pair: Sequence[Typed]) -> bool:
    return any(typed.ended for typed in pair)


def check_once(typed: Typed) -> None:
    """No tile that stood in a journal was computed again."""
    for result in typed.results:
        keys = [key for key, _ in tile_lines(result)]
        if len(keys) != len(set(keys)):
            raise DrillFailedError(f"{len(keys) - len(set(keys))} tiles stand in the journal twice")
