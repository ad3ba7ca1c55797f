"""Faults of the command: killed and typed again, and two commands on one folder."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from functools import partial

from drill.cluster import Cluster, Site
from drill.processes import workers_of
from drill.scene import DrillFailedError, Scene, Typed, tile_lines

KILLS = 3
BATCH_KILLS = 2


def client_killed(scene: Scene) -> None:
    """SIGKILL to the command, typed again at once: with own workers, on a cluster, and in threads."""
    cluster = Cluster(scene, [Site(), Site()])
    ways = [["--workers", "2"], ["--scheduler", cluster.address], []]
    for number in range(KILLS):
        typed = scene.type(*ways[number % len(ways)])
        if number:
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
    """SIGKILL to a batch of slides, typed again at once, and to one of its workers."""
    slides = scene.folder / "slides"
    slides.mkdir()
    for name in ("first", "second"):
        shutil.copyfile(scene.stage.slide, slides / f"{name}.tif")
    for number in range(BATCH_KILLS):
        typed = scene.type_batch(slides, "--workers", "2")
        if number:
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
    """Two commands on one folder: one is refused; after the other is killed, the refused one, typed again, resumes."""
    cluster = Cluster(scene, [Site(), Site()])
    ways = [["--scheduler", cluster.address], ["--workers", "2"]]
    for number in range(2):
        pair = []
        for options in ways if number else reversed(ways):
            pair.append(scene.type(*options))
            time.sleep(scene.rng.random())
        scene.until(partial(_one_has_finished, pair), "both of two on one folder continue")
        refused = next(typed for typed in pair if typed.finished)
        holder = next(typed for typed in pair if typed is not refused)
        if "another run" not in (error := scene.finish(refused, code=1)):
            raise DrillFailedError(f"the second of two on one folder ends with {error!r}")
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


def _one_has_finished(pair: Sequence[Typed]) -> bool:
    return any(typed.finished for typed in pair)


def check_once(typed: Typed) -> None:
    """Check that no tile in a journal was computed again."""
    for result in typed.results:
        keys = [key for key, _ in tile_lines(result)]
        if len(keys) != len(set(keys)):
            raise DrillFailedError(f"{len(keys) - len(set(keys))} tiles are in the journal twice")
