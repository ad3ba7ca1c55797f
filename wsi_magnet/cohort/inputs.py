"""What a batch reads; none of it may lie where one of its results goes, because a result is deleted as a whole."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from wsi_magnet.cohort.naming import fold
from wsi_magnet.cohort.options import CohortOptions
from wsi_magnet.cohort.paths import SUMMARY_CSV, SUMMARY_MD
from wsi_magnet.cohort.slide_job import SlideJob
from wsi_magnet.errors import CohortError
from wsi_magnet.nets.spec import bundle_path
from wsi_magnet.slides.companions import named_by_hamamatsu


class Inputs:
    """The slides of a batch with their parts, and its lists, bundles and other files."""

    def __init__(self, jobs: Sequence[SlideJob], options: CohortOptions) -> None:
        """Raises CohortError for a file that the batch would write over."""
        self._above: dict[str, str] = {}
        self._outs: tuple[str, ...] = ()
        if isinstance(options.out, Path):  # inputs are files, so none lies in an object store
            self._outs = str(options.out), os.path.realpath(options.out)
            for file in _inputs(jobs, options):
                self._add(file)
        for name in (SUMMARY_CSV, SUMMARY_MD):
            if (path := self.inside(name)) is not None:
                raise CohortError(f"{path} is where a batch writes its table; choose another output folder with -o")

    def holding(self) -> dict[str, str]:
        """What lies directly in the output and is an input or holds one: its name, folded, and that input."""
        return {
            fold(os.path.basename(path)): of for path, of in self._above.items() if os.path.dirname(path) in self._outs
        }

    def inside(self, name: str) -> str | None:
        """An input that lies where the result of this name goes; None where there is none."""
        paths = [os.path.join(out, name) for out in self._outs]
        paths += [os.path.realpath(path) for path in paths if os.path.islink(path)]
        return next((self._above[path] for path in paths if path in self._above), None)

    def _add(self, path: str) -> None:
        """Note an input and what is above it, as it was named and where it really lies."""
        folder = os.path.dirname(path)
        known = folder in self._above
        for start in (path,) if known else (path, os.path.realpath(folder)):
            self._climb(start, path)
        self._climb(os.path.realpath(path), path)

    def _climb(self, start: str, path: str) -> None:
        for above in _above(start):
            if above in self._above:
                return
            self._above[above] = path


def _above(path: str) -> Iterator[str]:
    """A path and all folders that it lies in."""
    yield path
    while (parent := os.path.dirname(path)) != path:
        path = parent
        yield path


def _inputs(jobs: Sequence[SlideJob], options: CohortOptions) -> Iterator[str]:
    """Absolute paths."""
    files = {job.listed_in for job in jobs} | {options.execution.cluster}
    files |= {str(bundle_path(bundle)) for bundle in {options.bundle, *(job.bundle for job in jobs)}}
    for file in files - {None}:
        yield str(Path(str(file)).expanduser().absolute())
    for job in jobs:
        yield job.slide
        yield from _parts(job)


def _parts(job: SlideJob) -> Iterator[str]:
    """What belongs to a slide and need not lie beside it: the folder of a MIRAX, pictures of a Hamamatsu."""
    for path in {job.slide, job.real}:
        if job.suffix == ".mrxs":
            yield os.path.splitext(path)[0]
        elif job.suffix in (".vms", ".vmu"):
            yield from named_by_hamamatsu(Path(path))
