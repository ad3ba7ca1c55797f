"""Faults of the slide: damaged for one worker only, truncated while it is read, and a tile that kills its process."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

import tifffile

from drill.cluster import Cluster, Site
from drill.scene import FINEST, DrillFailedError, Scene, SkippedError, Typed, tile_lines


def hollow(slide: Path, path: Path) -> Path:
    """A copy of the same length, headers and coarse levels, whose finest level is zeros."""
    shutil.copyfile(slide, path)
    with tifffile.TiffFile(slide) as tiff:
        page = tiff.pages[0]
        segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with path.open("rb+") as file:
        for offset, count in segments:
            file.seek(offset)
            file.write(bytes(count))
    return path


def over(bad: Path, slide: Path) -> tuple[str, ...]:
    """Words before a command that make it see the file `bad` in place of the slide."""
    shadow = ("unshare", "--mount", "sh", "-c", f'mount --bind "{bad}" "{slide}" && exec "$@"', "sh")
    done = subprocess.run([*shadow, "true"], capture_output=True, text=True)
    if done.returncode:
        raise SkippedError(f"no mount namespace can be made: {done.stderr.strip()}")
    return shadow


def unreadable_for_one(scene: Scene) -> None:
    """One of two workers sees an empty file instead of the slide."""
    empty = scene.folder / "empty.tif"
    empty.touch()
    _bad_for_one(scene, empty)


def hollow_for_one(scene: Scene) -> None:
    """One of two workers sees a slide whose finest level it cannot decode."""
    _bad_for_one(scene, hollow(scene.stage.slide, scene.folder / "hollow.tif"))


def _bad_for_one(scene: Scene, bad: Path) -> None:
    cluster = Cluster(scene, [Site(), Site(prefix=over(bad, scene.stage.slide))])
    scene.injected += 1
    scene.finish(scene.type("--scheduler", cluster.address))
    scene.check()


def truncated(scene: Scene) -> None:
    """The slide is truncated while its finest scale is read; after a repair the run is restarted."""
    slide = scene.folder / scene.stage.slide.name
    shutil.copyfile(scene.stage.slide, slide)
    typed = scene.type("--workers", "2", slide=slide)
    scene.until(partial(_at_finest, typed), "no tile of the finest scale is finished")
    scene.until_middle(typed, 1, 24)
    os.truncate(slide, slide.stat().st_size // 4)
    scene.injected += 1
    if slide.name not in (error := scene.finish(typed, code=1)):
        raise DrillFailedError(f"a truncated slide is reported as {error!r}")
    if "could not be read" in error:
        scene.check(lost=True)
    shutil.copyfile(scene.stage.slide, slide)
    again = scene.type("--workers", "2", "--restart", slide=slide)
    scene.note_recovery(again)
    scene.finish(again)
    scene.check()


def _at_finest(typed: Typed) -> bool:
    return any(key[0] == FINEST for key, _ in typed.lines)


def poison_here(scene: Scene) -> None:
    """A tile kills every process of the run that takes it."""
    poison = _poison(scene)
    _play_poisoned(scene, scene.type("--workers", "2", env={"WSI_MAGNET_DRILL_POISON": poison}))


def poison_in_cluster(scene: Scene) -> None:
    """A tile kills every worker of a cluster that takes it."""
    site = Site(env={"WSI_MAGNET_DRILL_POISON": _poison(scene)})
    cluster = Cluster(scene, [site, site])
    _play_poisoned(scene, scene.type("--scheduler", cluster.address))


def _poison(scene: Scene) -> str:
    keys = [key for key, _ in tile_lines(scene.stage.undisturbed)]
    return ",".join(map(str, scene.rng.choice([key for key in keys if key[0] == FINEST])))


def _play_poisoned(scene: Scene, typed: Typed) -> None:
    """Check that the tile is given up; the recovery is timed from the end of all other tiles."""
    scene.injected += 1
    tiles = len(tile_lines(scene.stage.undisturbed))
    scene.until(lambda: typed.finished or len(typed.lines) >= tiles - 1, "no tile is finished")
    scene.note_recovery(typed)
    error = scene.finish(typed, code=1)
    if "could not be read" not in error:
        raise DrillFailedError(f"a tile that kills its workers is reported as {error!r}")
    scene.check(lost=True)
    if scene.lost != 1:
        raise DrillFailedError(f"{scene.lost} tiles are lost where one kills its workers")
