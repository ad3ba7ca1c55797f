"""Segmentation of one slide from start to end: open, check for an earlier result, prepare, run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

from wsi_magnet.config import Execution, RunConfig
from wsi_magnet.errors import ConfigError, ResultMismatchError, SlideOpenError
from wsi_magnet.methods.registry import course_of, settled
from wsi_magnet.nets.spec import BundleSpec, bundle_identity, bundle_path, read_spec
from wsi_magnet.nets.trust import require_runtime, require_trust
from wsi_magnet.planning.areas import Areas
from wsi_magnet.planning.prepare import PreparedRun, ladder_of, prepare
from wsi_magnet.results.events import Note, Observer, ignore, together
from wsi_magnet.results.folder import Existing, ResultFolder, fingerprint, require_writable, write_json
from wsi_magnet.results.record import RunRecord
from wsi_magnet.results.summary import RunSummary
from wsi_magnet.results.uncertainty import add_uncertainty
from wsi_magnet.runtime.process_setup import refuse_during_import_of_main
from wsi_magnet.runtime.types import Executor
from wsi_magnet.slides.registry import open_slide
from wsi_magnet.slides.types import SlideInfo, SlideReader
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location, Url, exists, to_location
from wsi_magnet.system import give_memory_back
from wsi_magnet.values import check

Result = TypeVar("Result")


def result_folder(slide: str | Path, output: str | Location, name: str | None = None) -> Location:
    """Folder of a slide's result: `<output>/<name>`, by default the slide's name without its suffix."""
    return to_location(output).absolute() / (name or Path(slide).stem)


def segment_slide(
    slide: str | Path,
    output: str | Location,
    *,
    name: str | None = None,
    bundle: str | Path | None = None,
    config: RunConfig | None = None,
    execution: Execution | Executor | None = None,
    existing: Existing = "resume",
    progress: bool = False,
    observe: Observer = ignore,
) -> RunSummary:
    """Segment a slide with MagNet and write the result to `<output>/<name>/`, by default named as the slide is.

    output: a folder, or the URL of one in an object store, "s3://bucket/results".
    bundle: path of a bundle; None is the one that ships with the package. execution: the workers, by default threads of
    this process. With an executor, which several calls in threads of their own may share, a worker opens the slide and
    finds its tissue. A run that was stopped is resumed by the same call. Cells that cannot be read keep the result of
    the coarser scale, or label 255 where there is none, and are listed in `.failures`; nothing is raised for them.
    existing: "resume" an earlier run, "restart" it, or "overwrite" whatever lies in the folder. progress: True shows a
    bar on a terminal (stderr) or in a notebook, and lines in a file. observe: called in this thread with each event of
    the run, a frozen value of `wsi_magnet.results.events`: `Note`, `RunPlanned`, `WorkersReady`, `ScaleStarted`,
    `TileFinished`, `ScaleFinished`; what it raises ends the run, which can be resumed.
    Raises ConfigError for a wrong argument before any folder is made, and another WsiMagnetError for every other error
    that the user can correct.
    """
    refuse_during_import_of_main()
    _check_arguments(slide, output, name, config, execution, existing, observe)
    check(bool, progress, "progress")
    with _watching() if progress else nullcontext(ignore) as watch:
        both = together(watch, observe)
        chosen = settled(config or RunConfig())
        return _segment(slide, output, name, bundle, chosen, execution or Execution(), existing, both)


def _watching() -> AbstractContextManager[Observer]:
    from wsi_magnet.segment.progress import watching  # with rich, which most programs do without

    return watching()


def _segment(
    slide: str | Path,
    output: str | Location,
    name: str | None,
    bundle: str | Path | None,
    config: RunConfig,
    execution: Execution | Executor,
    existing: Existing,
    observe: Observer,
) -> RunSummary:
    spec, sha256 = read_spec(bundle)
    folder = ResultFolder(result_folder(slide, output, name))
    with _opened(slide, spec, config, execution, observe) as opened:
        info = opened.info
        own_bundle = None if bundle is None else bundle_path(bundle).absolute()
        files = [Path(one) for one in config.area_files.values()]
        folder.refuse_inputs_inside([*_parts(Path(info.path)), *([own_bundle] if own_bundle else []), *files])
        areas = _areas_of(config, info)
        origin = bundle_identity(bundle)  # renamed or recoloured classes make no other mask
        digest = None if areas is None else areas.digest
        wanted = fingerprint(info.identity, info.require_mpp(), (origin.name, origin.sha256), config, digest)
        earlier = folder.admit(wanted, existing)
        finished = _finished_before(folder, earlier)
        if finished and earlier:
            for note in _kept_as_it_is(earlier, spec, config):
                observe(Note(note))
            if config.keep_uncertainty and not earlier.config.keep_uncertainty:
                observe(Note("the uncertainty is computed from the probabilities that this result has kept"))
                with folder.locked():
                    add_uncertainty(folder, earlier)
            return finished
        # A slide that is too coarse, and a device or arithmetic that is not here, are refused before a folder is made.
        ladder_of(info, spec)
        require_trust(spec, bundle_path(bundle))
        _check_machine(spec, config, execution)
        if course_of(config.method).refines == "last":
            from wsi_magnet.methods.build import require_methods  # with torch

            require_methods(spec, [config.method])
        require_writable(folder.path)
        with folder.locked():
            earlier = folder.admit(wanted, existing)  # again: another run may have finished before the lock was ours
            prepared = opened.prepare(areas)
            for note in prepared.notes:
                observe(Note(note))
            from wsi_magnet.segment.run import Run  # with torch and Dask, which a finished run does without

            run = Run(prepared, folder, sha256, str(own_bundle) if own_bundle else None, observe)
            return run.execute(execution, wanted, resume=earlier is not None)


def _check_arguments(
    slide: object, output: object, name: object, config: object, execution: object, existing: object, observe: object
) -> None:
    """Raises ConfigError for an argument of `segment_slide` of a wrong type or value."""
    check(str | os.PathLike, slide, "slide")
    check(str | os.PathLike | Url, output, "output")
    folder: str | None = check(str | None, name, "name")
    if folder is not None and (not folder or folder in (".", "..") or set(folder) & {"/", "\0"}):
        raise ConfigError(f"name is {folder!r}, not the name of a folder", arguments=("name",))
    check(RunConfig | None, config, "config")
    if not callable(getattr(execution, "map", None)):
        check(Execution | None, execution, "execution")
    check(Existing, existing, "existing")
    if not callable(observe):
        raise ConfigError(f"observe is {observe!r:.60}, not a function of one event", arguments=("observe",))


def _check_machine(spec: BundleSpec, config: RunConfig, execution: Execution | Executor) -> None:
    """Raises ConfigError where this machine is to compute and lacks the device, or the device lacks the arithmetic;
    BundleError where it lacks what the bundle's model needs.
    """
    if not isinstance(execution, Execution) or execution.scheduler is not None or execution.cluster is not None:
        return
    require_runtime(spec)
    from wsi_magnet.inference.devices import resolve_device
    from wsi_magnet.inference.optimize import resolve_precision

    resolve_precision(config.precision, resolve_device(execution.device))


class _OpenSlide(Protocol):
    """A slide that is open, here or on a worker."""

    @property
    def info(self) -> SlideInfo:
        """Description of the slide."""
        ...

    def prepare(self, areas: Areas | None) -> PreparedRun:
        """Find the tissue and plan the run. Raises MissingMppError, SlideReadError."""
        ...


@dataclass(frozen=True, slots=True)
class _LocalSlide:
    """A slide that is open in this process."""

    reader: SlideReader
    spec: BundleSpec
    config: RunConfig

    @property
    def info(self) -> SlideInfo:
        return self.reader.info

    def prepare(self, areas: Areas | None) -> PreparedRun:
        prepared = prepare(self.reader, self.spec, self.config, areas)
        self.reader.close()  # workers have readers of their own; this one's cache of decoded tiles is of no more use
        give_memory_back()
        return prepared


class _WorkerSlide:
    """A slide that the workers of an executor open; this process need not reach the file."""

    def __init__(self, slide: str, spec: BundleSpec, config: RunConfig, executor: Executor, observe: Observer) -> None:
        """Raises SlideOpenError, ConfigError."""
        from wsi_magnet.worker.tasks import RunInspect  # with torch, which a finished run does without

        self._slide, self._executor, self._observe = slide, executor, observe
        self._spec, self._config = spec, config
        self.info = self._on_a_worker(RunInspect(config.mpp))

    def prepare(self, areas: Areas | None) -> PreparedRun:
        from wsi_magnet.worker.tasks import RunSurvey

        return self._on_a_worker(RunSurvey(self._spec, self._config, areas))

    def _on_a_worker(self, function: Callable[[str], Result]) -> Result:
        def notify(text: str) -> None:
            self._observe(Note(text))

        return next(iter(self._executor.map(function, [self._slide], on_lost=_not_opened, notify=notify)))


@contextmanager
def _opened(
    slide: str | Path, spec: BundleSpec, config: RunConfig, execution: Execution | Executor, observe: Observer
) -> Iterator[_OpenSlide]:
    """Context with the slide, open here, or on the workers of an executor that exists already."""
    if isinstance(execution, Execution):
        with closing(open_slide(slide, mpp=config.mpp)) as reader:
            yield _LocalSlide(reader, spec, config)
    else:
        yield _WorkerSlide(str(Path(slide).absolute()), spec, config, execution, observe)


def _areas_of(config: RunConfig, info: SlideInfo) -> Areas | None:
    """Areas of the configuration's files; None where it names none. Raises AnnotationError, ConfigError."""
    if not config.area_files:
        return None
    from wsi_magnet.segment.areas import read_areas  # with readers of images and SciPy, which most runs do without

    return read_areas(config, info)


def _parts(slide: Path) -> list[Path]:
    """Files of a slide: its own, and for MIRAX the folder with its pixels."""
    return [slide, slide.with_suffix("")] if slide.suffix.lower() == ".mrxs" else [slide]


def _not_opened(slide: str, reason: str) -> NoReturn:
    """Raises SlideOpenError for a slide that kills every process that opens it."""
    raise SlideOpenError(f"{slide} cannot be opened as a slide: {reason}")


def _kept_as_it_is(record: RunRecord, spec: BundleSpec, config: RunConfig) -> list[str]:
    """Notes on differences between a finished result and this request that no computation needs."""
    notes = []
    if record.bundle.classes != tuple(one.label for one in spec.classes):
        notes.append(
            "the bundle names or colours its classes otherwise than this result; "
            "`wsi-magnet relabel RESULT --bundle FILE` gives the result those of the bundle"
        )
    if more := [name for name in record.config.kept if name not in config.kept]:
        notes.append(f"this result also holds {' and '.join(more)}, from an earlier --keep; it stays")
    return notes


def _finished_before(folder: ResultFolder, record: RunRecord | None) -> RunSummary | None:
    """Summary of a finished run, None for any other. Raises ResultMismatchError where its images are gone."""
    if record is None or record.running:
        return None
    if "classes" not in (record.summary or {}):
        raise ResultMismatchError(f"{folder.run_json} has no summary; make it again with --restart", cure="--restart")
    folder.require_chunks(record)
    for name in ("mask", *record.config.kept):
        with storage_errors(folder.path):
            there = exists(folder.path / f"{name}.ome.zarr" / "0")
        if not there:
            raise ResultMismatchError(
                f"{folder.path} was finished, but its {name}.ome.zarr is gone or incomplete; "
                "make it again with --restart",
                cure="--restart",
            )
    with storage_errors(folder.path):
        has_summary = exists(folder.summary_json)
    if not has_summary:
        write_json(folder.summary_json, record.summary or {})
    return RunSummary(folder.path, True, record.failures, record.summary or {})
