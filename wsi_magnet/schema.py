"""From JSON to frozen dataclasses, strictly: what is unknown, missing or of another type is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from math import isfinite
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from wsi_magnet.errors import BundleError


def parse(kind: Any, value: object, name: str) -> Any:
    """A JSON value as the type `kind`: a dataclass, a tuple, a mapping by text, text, a number, true or false, or any
    of these or nothing.

    name: how errors call the value. Raises BundleError.
    """
    if is_dataclass(kind):
        return _parse_dataclass(kind, value, name)
    origin = get_origin(kind)
    if origin is tuple:
        return _parse_tuple(get_args(kind), value, name)
    if origin is Mapping:
        entries = _expect(dict, value, name, "an object")
        return {key: parse(get_args(kind)[1], one, f"{name}.{key}") for key, one in entries.items()}
    if origin is UnionType and NoneType in get_args(kind):
        (wanted,) = (one for one in get_args(kind) if one is not NoneType)
        return None if value is None else parse(wanted, value, name)
    if origin is UnionType:
        return _parse_number(value, name)
    if kind is float:
        return float(_parse_number(value, name))
    return _expect(kind, value, name, {str: "text", int: "a whole number", bool: "true or false"}[kind])


def _parse_dataclass(kind: Any, value: object, name: str) -> Any:
    values = _expect(dict, value, name, "an object")
    hints = get_type_hints(kind)
    wanted = {f.name for f in fields(kind)}
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    for word, names in (("unknown", values.keys() - wanted), ("missing", needed - values.keys())):
        if names:
            raise BundleError(f"{name}: {word} field {', '.join(sorted(map(repr, names)))}")
    return kind(**{key: parse(hints[key], one, f"{name}.{key}") for key, one in values.items()})


def _parse_tuple(kinds: tuple[Any, ...], value: object, name: str) -> tuple[Any, ...]:
    items = _expect(list, value, name, "a list")
    if kinds[-1] is ...:
        kinds = kinds[:1] * len(items)
    if len(items) != len(kinds):
        raise BundleError(f"{name} has {len(items)} values, not {len(kinds)}")
    return tuple(parse(k, item, f"{name}[{i}]") for i, (k, item) in enumerate(zip(kinds, items, strict=True)))


def _parse_number(value: object, name: str) -> int | float:
    # True is an int to Python and 1 to nobody who writes JSON.
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise BundleError(f"{name} is {value!r}, not a number")
    return value


def _expect(kind: type, value: object, name: str, words: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BundleError(f"{name} is {value!r:.60}, not {words}")
    return value
