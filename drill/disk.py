"""Faults of the disk: full in the middle of a run, then with free space again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drill.scene import DrillFailedError, Scene, SkippedError

SIZE_BYTES = 64 << 20
"""Size of the disk: more than a result needs."""


def disk_full(scene: Scene) -> None:
    """Another program fills the disk in the middle of a run, to the last byte; then space is freed."""
    for number, options in enumerate((["--workers", "2"], [])):
        disk = scene.folder / f"disk{number}"
        with mounted(disk):
            typed = scene.type(*options, out=disk)
            if scene.until_middle(typed):
                fill(disk / "ballast")
                scene.injected += 1
            error = scene.finish(typed, code=1)
            if "space" not in error and "full" not in error:
                raise DrillFailedError(f"a full disk is reported as {error!r}")
            (disk / "ballast").unlink()
            again = scene.type(*options, out=disk)
            scene.note_recovery(again)
            scene.finish(again)
            scene.check(again.results[0])


def fill(ballast: Path) -> None:
    """Fill the free space of a disk with one file."""
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """A disk in memory, within the context."""
    folder.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        raise SkippedError(f"no disk can be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        # Processes of a failed drill may still use it: the kernel removes it when they have ended.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
