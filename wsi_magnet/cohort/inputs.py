"""Inputs of a batch, and the check that none lies where a result goes: a result is deleted as a whole."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from wsi_magnet.cohort.naming import fold
from wsi_magnet.cohort.options import CohortOptions
from wsi_magnet.cohort.paths import SUMMARY_CSV, SUMMARY_MD
from wsi_magnet.cohort.slide import CohortSlide
from wsi_magnet.errors import CohortError
from wsi_magnet.nets.spec import bundle_path
from wsi_magnet.slides.multi_file import named_by_hamamatsu


class Inputs:
    """Slides of a batch with their parts, its lists, bundles and other files."""

    def __init__(self, slides: Sequence[CohortSlide], options: CohortOptions) -> None:
        """Raises CohortError for a file that the batch would overwrite."""
        self._input_at: dict[str, str] = {}
        """An input by its path and by the path of each folder above it."""
        self._outs: tuple[str, ...] = ()
        if isinstance(options.out, Path):  # inputs are files, so none lies in an object store
            self._outs = str(options.out), os.path.realpath(options.out)
            for file in _input_files(slides, options):
                self._add(file)
        for name in (SUMMARY_CSV, SUMMARY_MD):
            if (path := self.inside(name)) is not None:
                raise CohortError(f"{path} would be overwritten by the batch's table; choose another folder with -o")

    def reserved_names(self) -> dict[str, str]:
        """Folded names in the output folder that are an input or contain one, with that input."""
        return {
            fold(os.path.basename(path)): file
            for path, file in self._input_at.items()
            if os.path.dirname(path) in self._outs
        }

    def inside(self, name: str) -> str | None:
        """An input in the result folder of that name; None without one."""
        paths = [os.path.join(out, name) for out in self._outs]
        paths += [os.path.realpath(path) for path in paths if os.path.islink(path)]
        return next((self._input_at[path] for path in paths if path in self._input_at), None)

    def _add(self, path: str) -> None:
        """Record an input and the folders above it, by its own path and by the real one."""
        folder = os.path.dirname(path)
        known = folder in self._input_at
        for start in (path,) if known else (path, os.path.realpath(folder)):
            self._climb(start, path)
        self._climb(os.path.realpath(path), path)

    def _climb(self, start: str, path: str) -> None:
        for above in _with_parents(start):
            if above in self._input_at:
                return
            self._input_at[above] = path


def _with_parents(path: str) -> Iterator[str]:
    yield path
    while (parent := os.path.dirname(path)) != path:
        path = parent
        yield path


def _input_files(slides: Sequence[CohortSlide], options: CohortOptions) -> Iterator[str]:
    """Yield absolute paths."""
    files = {slide.listed_in for slide in slides} | {options.execution.cluster}
    files |= {slide.roi for slide in slides} | {*options.config.area_files.values()}
    files |= {str(bundle_path(bundle)) for bundle in {options.bundle, *(slide.bundle for slide in slides)}}
    for file in files - {None}:
        yield str(Path(str(file)).expanduser().absolute())
    for slide in slides:
        yield slide.path
        yield from _parts(slide)


def _parts(slide: CohortSlide) -> Iterator[str]:
    """Yield parts of a slide that need not lie beside it: the folder of a MIRAX slide, a Hamamatsu slide's pictures."""
    for path in {slide.path, slide.real_path}:
        if slide.suffix == ".mrxs":
            yield os.path.splitext(path)[0]
        elif slide.suffix in (".vms", ".vmu"):
            yield from named_by_hamamatsu(Path(path))
