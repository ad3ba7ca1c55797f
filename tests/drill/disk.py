"""Faults of the disk: full in the middle of a run, then with room again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.drill.scene import DrillFailedError, Scene, SkippedError

ROOMY = "256m"


def disk_full(scene: Scene) -> None:
    """A disk with room for a part of the result; then room is made and the command typed again."""
    needed = bytes_of(scene.stage.folder / "undisturbed")
    for turn, options in enumerate((["--workers", "2"], [])):
        disk = scene.folder / f"disk{turn}"
        with mounted(disk, f"{round(needed * scene.rng.uniform(0.5, 0.9) / 1024)}k"):
            typed = scene.type(*options, out=disk)
            said = scene.finish(typed, code=1)
            if "space" not in said and "full" not in said:
                raise DrillFailedError(f"a full disk is told as {said!r}")
            if not typed.lines:
                raise DrillFailedError("the disk was full before the first tile was finished")
            scene.injected += 1
            remount(disk, ROOMY)
            again = scene.type(*options, out=disk)
            scene.note_recovery(again)
            scene.finish(again)
            scene.check(again.results[0])


def bytes_of(folder: Path) -> int:
    """Of a disk that holds it: tmpfs counts whole pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    """A disk of that size in memory, for as long as it is needed."""
    folder.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        raise SkippedError(f"no disk can be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        # Processes of a drill that failed may still be at work in it: it goes when they are ended.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, size: str) -> None:
    """Another size."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)
