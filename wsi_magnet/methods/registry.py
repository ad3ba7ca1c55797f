"""Methods by name; a method's module is imported only when it is asked for. Other packages add more by entry points.

A package adds a method by an entry point of the group "wsi_magnet.methods" whose object is a subclass of `Method`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

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
}
"""Module and class, by the method's name in the poster."""


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
    raise ConfigError(f"unknown method {name!r}; available are {', '.join(refining_methods())}", arguments=("method",))


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
