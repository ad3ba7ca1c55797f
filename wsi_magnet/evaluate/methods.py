"""Methods, the rows of the table: each makes a result folder from a slide; other packages may add more.

A package adds a method by an entry point of the group "wsi_magnet.methods" whose object is a `Method`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from wsi_magnet.config import Execution, Refine, RunConfig
from wsi_magnet.errors import ConfigError
from wsi_magnet.nets.bundle import load_bundle, save_bundle
from wsi_magnet.nets.spec import BundleSpec, read_spec
from wsi_magnet.planning.prepare import ladder_of
from wsi_magnet.segment.slide import segment_slide
from wsi_magnet.slides.registry import open_slide

GROUP = "wsi_magnet.methods"


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a method for one slide."""

    config: RunConfig
    """Resolution, tissue, and kept probabilities; the method itself sets `refine`."""
    execution: Execution
    """Device and workers."""


@runtime_checkable
class Method(Protocol):
    """A way to segment a slide; a value that can be pickled."""

    @property
    def name(self) -> str:
        """Name in the table."""
        ...

    def prepare(self, slide: Path, bundle: Path, folder: Path, settings: Settings) -> Path:
        """Return the bundle for `segment`, made in `folder` if necessary. Not timed."""
        ...

    def segment(self, slide: Path, bundle: Path, out: Path, settings: Settings) -> Path:
        """Segment the slide and return the finished result folder in `out`. Timed."""
        ...


@dataclass(frozen=True, slots=True)
class MagNet:
    """Coarse-to-fine refinement as in `wsi-magnet run`; with a fraction of the cells it is MagNet-Fast."""

    name: str = "MagNet"
    refine: Refine = "all"
    """Cells to refine at each scale after the first, as in a run."""

    def prepare(self, slide: Path, bundle: Path, folder: Path, settings: Settings) -> Path:
        """Return the bundle unchanged."""
        return bundle

    def segment(self, slide: Path, bundle: Path, out: Path, settings: Settings) -> Path:
        """Run all scales."""
        return _run(slide, bundle, out, replace(settings, config=replace(settings.config, refine=self.refine)))


@dataclass(frozen=True, slots=True)
class OneScale:
    """The bundle's network at one scale, without refinement."""

    name: str
    which: Literal["finest", "coarsest"]
    """Choice among the scales that the slide has pixels for."""

    def prepare(self, slide: Path, bundle: Path, folder: Path, settings: Settings) -> Path:
        """Make a bundle with that scale and no refiner."""
        spec, _ = read_spec(bundle)
        with closing(open_slide(slide, mpp=settings.config.mpp)) as reader:
            index = len(ladder_of(reader.info, spec)) - 1 if self.which == "finest" else 0
        path = folder / f"scale{index}.safetensors"
        if not path.exists():
            whole = load_bundle(bundle)
            save_bundle(path, single_scale(spec, index), whole.backbone, [])
        return path

    def segment(self, slide: Path, bundle: Path, out: Path, settings: Settings) -> Path:
        """Run that scale."""
        return _run(slide, bundle, out, settings)


def single_scale(spec: BundleSpec, index: int) -> BundleSpec:
    """The description with one of its scales, no refiner, and no profile, which is of masks of all scales."""
    return replace(
        spec,
        mpps=(spec.mpps[index],),
        temperature=(spec.temperature[index],),
        refiner_of=(),
        select_above=(),
        select_width=(),
        refine_above=(),
        profile=None,
    )


def built_in(fast: float) -> tuple[Method, ...]:
    """The poster's methods that need only a bundle; `fast` is the share of cells that MagNet-Fast refines."""
    return (
        OneScale("Patching", "finest"),
        OneScale("Downsample", "coarsest"),
        MagNet("MagNet-Fast", refine=fast),
        MagNet(),
    )


def all_methods(fast: float) -> tuple[Method, ...]:
    """Built-in methods and those of other packages. Raises ConfigError for an entry point that is not a method."""
    added: list[Method] = []
    for point in entry_points(group=GROUP):
        try:
            found = point.load()
        except Exception as error:  # another package's code may raise anything
            raise ConfigError(
                f"entry point {point.name!r} of group {GROUP} ({point.value}) cannot be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(found, Method):
            raise ConfigError(f"entry point {point.name!r} of group {GROUP} ({point.value}) is not a Method")
        added.append(found)
    return (*added, *built_in(fast))


def choose(methods: Sequence[Method], names: Sequence[str]) -> tuple[Method, ...]:
    """Methods with these names, ignoring case, in the table's order; all if no name is given. Raises ConfigError."""
    wanted = {name.strip().lower() for name in names}
    unknown = wanted - {method.name.lower() for method in methods}
    if unknown:
        known = ", ".join(method.name for method in methods)
        raise ConfigError(f"--methods: unknown method {sorted(unknown)[0]!r}; available are {known}")
    return tuple(method for method in methods if not wanted or method.name.lower() in wanted)


def _run(slide: Path, bundle: Path, out: Path, settings: Settings) -> Path:
    # Restart even over a finished result: a skipped run cannot be timed.
    folder = segment_slide(
        slide, out, bundle=bundle, config=settings.config, execution=settings.execution, existing="restart"
    ).folder
    assert isinstance(folder, Path)
    return folder
