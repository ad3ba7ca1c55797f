"""The rows of the table: each a method that makes a result folder of a slide; other packages may bring more.

A package offers a method by an entry point of the group "wsi_magnet.methods" whose object is a `Method`.
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
    """What every method is told of one slide."""

    config: RunConfig
    """Resolution, tissue, and that probabilities are kept; `refine` is the method's own affair."""
    execution: Execution
    """Where the networks run."""


@runtime_checkable
class Method(Protocol):
    """A way to segment a slide, a value that can be sent to another process."""

    @property
    def name(self) -> str:
        """What the table calls it."""
        ...

    def prepare(self, slide: Path, bundle: Path, folder: Path, settings: Settings) -> Path:
        """The bundle that `segment` is to be given; what is made for it goes into `folder`. Not timed."""
        ...

    def segment(self, slide: Path, bundle: Path, out: Path, settings: Settings) -> Path:
        """Segment the slide and return the finished result folder in `out`. Its seconds are the method's."""
        ...


@dataclass(frozen=True, slots=True)
class MagNet:
    """The product itself, coarse to fine; a fraction of the cells makes it MagNet-Fast."""

    name: str = "MagNet"
    refine: Refine = "all"
    """As in a run: which cells of each scale after the first are refined."""

    def prepare(self, slide: Path, bundle: Path, folder: Path, settings: Settings) -> Path:
        """The bundle as it is."""
        return bundle

    def segment(self, slide: Path, bundle: Path, out: Path, settings: Settings) -> Path:
        """A run over all scales."""
        return _run(slide, bundle, out, replace(settings, config=replace(settings.config, refine=self.refine)))


@dataclass(frozen=True, slots=True)
class OneScale:
    """The bundle's network at one scale alone, without refinement."""

    name: str
    which: Literal["finest", "coarsest"]
    """Of the scales that the slide has pixels for."""

    def prepare(self, slide: Path, bundle: Path, folder: Path, settings: Settings) -> Path:
        """A bundle of that scale and no refiner."""
        spec, _ = read_spec(bundle)
        with closing(open_slide(slide, mpp=settings.config.mpp)) as reader:
            index = len(ladder_of(reader.info, spec)) - 1 if self.which == "finest" else 0
        path = folder / f"scale{index}.safetensors"
        if not path.exists():
            whole = load_bundle(bundle)
            save_bundle(path, single_scale(spec, index), whole.backbone, [])
        return path

    def segment(self, slide: Path, bundle: Path, out: Path, settings: Settings) -> Path:
        """A run over that scale."""
        return _run(slide, bundle, out, settings)


def single_scale(spec: BundleSpec, index: int) -> BundleSpec:
    """The same bundle with one of its scales and no refiner."""
    return replace(
        spec,
        mpps=(spec.mpps[index],),
        temperature=(spec.temperature[index],),
        refiner_of=(),
        select_above=(),
        select_width=(),
        refine_above=(),
    )


def built_in(fast: float) -> tuple[Method, ...]:
    """The poster's rows that need nothing but a bundle; `fast` is the share of cells that MagNet-Fast refines."""
    return (
        OneScale("Patching", "finest"),
        OneScale("Downsample", "coarsest"),
        MagNet("MagNet-Fast", refine=fast),
        MagNet(),
    )


def all_methods(fast: float) -> tuple[Method, ...]:
    """The built-in rows and those that other packages bring. Raises ConfigError for one that is no method."""
    brought: list[Method] = []
    for point in entry_points(group=GROUP):
        try:
            found = point.load()
        except Exception as error:  # another package's code: whatever its import ends in
            raise ConfigError(
                f"entry point {point.name!r} of group {GROUP} ({point.value}) cannot be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(found, Method):
            raise ConfigError(f"entry point {point.name!r} of group {GROUP} ({point.value}) is no method")
        brought.append(found)
    return (*brought, *built_in(fast))


def choose(methods: Sequence[Method], names: Sequence[str]) -> tuple[Method, ...]:
    """Those of these names, upper or lower case, in the table's order; all for no names. Raises ConfigError."""
    wanted = {name.strip().lower() for name in names}
    unknown = wanted - {method.name.lower() for method in methods}
    if unknown:
        known = ", ".join(method.name for method in methods)
        raise ConfigError(f"--methods: no method is called {sorted(unknown)[0]!r}; there are {known}")
    return tuple(method for method in methods if not wanted or method.name.lower() in wanted)


def _run(slide: Path, bundle: Path, out: Path, settings: Settings) -> Path:
    # Begun anew even where a finished result lies: what is not computed again cannot be timed.
    folder = segment_slide(
        slide, out, bundle=bundle, config=settings.config, execution=settings.execution, existing="restart"
    ).folder
    assert isinstance(folder, Path)
    return folder
