"""Methods by name; a method's module is imported only when it is asked for. Other packages add more by entry points.

A package adds a method by an entry point of the group "wsi_magnet.methods" whose object is a subclass of `Method`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Literal

from wsi_magnet.config import MAGNET, MAGNET_FAST, Refine, RunConfig
from wsi_magnet.errors import ConfigError

if TYPE_CHECKING:
    from wsi_magnet.methods.method import Method

GROUP = "wsi_magnet.methods"

_OWN: dict[str, tuple[str, str]] = {
    "GF": ("guided_filter", "GuidedFilter"),
    "DGF": ("deep_guided_filter", "DeepGuidedFilter"),
    "DenseCRF": ("dense_crf", "DenseCRF"),
    "ISS": ("iss", "IterativeSegmentation"),
    "PointRend": ("pointrend", "PointRend"),
    "SegFix": ("segfix", "SegFix"),
    "GLNet": ("glnet", "GlNet"),
    "DeepStrip": ("deepstrip", "DeepStrip"),
    "CascadePSP": ("cascade_psp", "CascadePSP"),
}
"""Module and class, by the method's name in the poster."""


FAST = 0.2
"""Share of the cells that MagNet-Fast refines, unless `--refine` has another."""


@dataclass(frozen=True, slots=True)
class Course:
    """The scales that a method uses, and at which of them it refines the coarser result."""

    name: str
    scales: Literal["all", "finest", "coarsest"] = "all"
    refines: Literal["every", "last"] = "every"
    """"every": at each scale after the first; "last": at the finest alone, the result being upsampled up to it."""
    refine: Refine = "auto"
    """Cells that are refined where the run leaves it to the method."""

    def refines_at(self, index: int, count: int) -> bool:
        """True for a scale, of `count`, at which the coarser result is refined."""
        return index > 0 and (self.refines == "every" or index == count - 1)


_COURSES = (
    Course("Patching", "finest"),
    Course("Downsample", "coarsest"),
    Course(MAGNET_FAST, refine=FAST),
    Course(MAGNET),
)
"""Methods that need only a bundle's backbone and refinement modules."""


def method_names() -> tuple[str, ...]:
    """Names of all methods, in the order of the table: the two halves, refining ones, MagNet-Fast and MagNet."""
    halves, magnet = _COURSES[:2], _COURSES[2:]
    return (*(one.name for one in halves), *refining_methods(), *(one.name for one in magnet))


def course_of(method: str) -> Course:
    """The course of a method, by its name, ignoring case. Raises ConfigError for an unknown one."""
    known = next((one for one in _COURSES if one.name.lower() == method.lower()), None)
    if known is not None:
        return known  # without a look at what is installed: most runs are MagNet's, and ask at every scale
    for name in refining_methods():
        if name.lower() == method.lower():
            return Course(name, refines="last", refine="all")
    raise ConfigError(f"method is {method!r}, none of {', '.join(method_names())}", arguments=("method",))


def settled(config: RunConfig) -> RunConfig:
    """The configuration with the method's own spelling and, for `refine="auto"`, with the cells that it refines.

    Raises ConfigError for an unknown method.
    """
    course = course_of(config.method)
    refine = course.refine if config.refine == "auto" else config.refine
    return replace(config, method=course.name, refine=refine)


def refining_methods() -> tuple[str, ...]:
    """Names of the methods that refine the coarsest result, without MagNet: the poster's, then other packages'."""
    return (*_OWN, *sorted(point.name for point in entry_points(group=GROUP)))


def method_class(name: str) -> type[Method]:
    """The class of a method, by its name, ignoring case. Raises ConfigError for an unknown one, and for an entry point
    that is no method.
    """
    for own, (module, attribute) in _OWN.items():
        if own.lower() == name.lower():
            found: type[Method] = getattr(import_module(f"wsi_magnet.methods.{module}"), attribute)
            return found
    for point in entry_points(group=GROUP):
        if point.name.lower() == name.lower():
            return _loaded(point.name, point.value, point.load)
    raise ConfigError(f"method is {name!r}, none of {', '.join(refining_methods())}", arguments=("method",))


def _loaded(name: str, value: str, load: object) -> type[Method]:
    from wsi_magnet.methods.method import Method

    where = f"entry point {name!r} of group {GROUP} ({value})"
    try:
        found = load()  # type: ignore[operator]
    except Exception as error:  # another package's code may raise anything
        raise ConfigError(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ConfigError(f"{where} is not a subclass of wsi_magnet.methods.method.Method")
    return found
