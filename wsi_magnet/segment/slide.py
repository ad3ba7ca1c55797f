"""The whole flow of a slide on one screen: open, decide whether there is anything to do, prepare, run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from wsi_magnet.config import Execution, RunConfig
from wsi_magnet.errors import ResultMismatchError, SlideOpenError
from wsi_magnet.nets.spec import BundleSpec, bundle_path, read_spec
from wsi_magnet.planning.prepare import PreparedRun, ladder_of, prepare
from wsi_magnet.results.events import Note, Observer, ignore
from wsi_magnet.results.folder import Existing, ResultFolder, fingerprint, require_writable, write_json
from wsi_magnet.results.record import RunRecord
from wsi_magnet.results.summary import RunSummary
from wsi_magnet.runtime.types import Executor
from wsi_magnet.slides.registry import open_slide
from wsi_magnet.slides.types import SlideInfo
from wsi_magnet.storage.errors import storage_errors
from wsi_magnet.storage.location import Location, exists, to_location
from wsi_magnet.system import give_memory_back


def result_folder(slide: str | Path, output: str | Location, name: str | None = None) -> Location:
    """Where a slide's result goes: `<output>/<name>`, by default the slide's name without its suffix."""
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
    observe: Observer = ignore,
) -> RunSummary:
    """Segment a slide with MagNet and write the result to `<output>/<name>/`, by default named as the slide is.

    output: a folder, or the URL of one in an object store, "s3://bucket/results".
    bundle: path of a bundle; None is the one that ships with the package. execution: where to work, by default in
    threads of this process. With an executor, which several calls in threads of their own may share, a worker opens the
    slide and looks for tissue. Typed again it goes on where it was stopped. Cells that cannot be read are labelled 255
    and listed in `.failures`; nothing is raised for them. Raises WsiMagnetError for everything else that the user can
    mend.
    """
    config, execution = config or RunConfig(), execution or Execution()
    spec, sha256 = read_spec(bundle)
    folder = ResultFolder(result_folder(slide, output, name))
    with _looked_at(slide, spec, config, execution, observe) as (info, prepared_slide):
        own_bundle = None if bundle is None else bundle_path(bundle).absolute()
        folder.refuse_inputs_inside([*_parts(Path(info.path)), *([own_bundle] if own_bundle else [])])
        wanted = fingerprint(info.identity, info.require_mpp(), (spec.name, sha256), config)
        finished = _finished_before(folder, folder.admit(wanted, existing))
        if finished:
            return finished
        ladder_of(info, spec)  # a slide that is too coarse is refused before its folder is made
        require_writable(folder.path)
        with folder.locked():
            earlier = folder.admit(wanted, existing)  # again: another run may have ended before the folder was ours
            prepared = prepared_slide()
            for note in prepared.notes:
                observe(Note(note))
            from wsi_magnet.segment.run import Run  # with torch and Dask, which a finished run does without

            run = Run(prepared, folder, sha256, str(own_bundle) if own_bundle else None, observe)
            return run.complete(execution, wanted, go_on=earlier is not None)


@contextmanager
def _looked_at(
    slide: str | Path, spec: BundleSpec, config: RunConfig, execution: Execution | Executor, observe: Observer
) -> Iterator[tuple[SlideInfo, Callable[[], PreparedRun]]]:
    """What a slide is, and how to have it prepared: here, or by a worker of an executor that is there already."""
    if not isinstance(execution, Execution):
        from wsi_magnet.worker.tasks import RunSurvey

        told = execution.map(
            RunSurvey(spec, config),
            [str(Path(slide).absolute())],
            on_lost=_not_opened,
            notify=lambda text: observe(Note(text)),
        )
        prepared = next(iter(told))
        yield prepared.info, lambda: prepared
        return
    with closing(open_slide(slide, mpp=config.mpp)) as reader:

        def prepare_here() -> PreparedRun:
            found = prepare(reader, spec, config)
            reader.close()  # workers have their own, and this one's cache of decoded tiles would lie idle
            give_memory_back()
            return found

        yield reader.info, prepare_here


def _parts(slide: Path) -> list[Path]:
    """A slide's file, and of a MIRAX slide the folder that has its pixels."""
    return [slide, slide.with_suffix("")] if slide.suffix.lower() == ".mrxs" else [slide]


def _not_opened(slide: str, reason: str) -> PreparedRun:
    """Raises SlideOpenError for a slide that kills whatever process opens it: its own fault, and not the workers'."""
    raise SlideOpenError(f"{slide} cannot be opened as a slide: {reason}")


def _finished_before(folder: ResultFolder, record: RunRecord | None) -> RunSummary | None:
    """The summary of a run that has ended, if it has. Raises ResultMismatchError if its masks have gone since."""
    if record is None or record.running:
        return None
    for name in ("mask", *record.config.kept):
        with storage_errors(folder.path):
            there = exists(folder.path / f"{name}.ome.zarr" / "0")
        if not there:
            raise ResultMismatchError(
                f"{folder.path} was finished, but its {name}.ome.zarr is gone or incomplete; "
                "make it anew with --restart",
                cure="--restart",
            )
    with storage_errors(folder.path):
        told = exists(folder.summary_json)
    if not told:
        write_json(folder.summary_json, record.summary or {})
    return RunSummary(folder.path, True, record.failures, record.summary or {})
