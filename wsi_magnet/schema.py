"""Strict parsing of JSON and YAML values into frozen dataclasses, with one-line errors.

The dataclass is the schema: field types, `Literal` words, `Annotated` bounds, defaults for optional fields, and
`__post_init__` for what fields must be together. Standard library only: `--help` and workers pay nothing for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from math import inf, isfinite
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from wsi_magnet.errors import ConfigError, WsiMagnetError

Unknown = Literal["refuse", "ignore"]
"""Treatment of keys that are no fields: refused in what a user writes, ignored in what a newer program wrote."""

_KEY = "key"
_WORDS: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


class SchemaError(ValueError):
    """A value that its schema does not allow; the text is one line with the key, the value and what is allowed."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of a number, for `Annotated[int, Bounds(1)]`; both are allowed values unless `open_below` says no."""

    least: float = -inf
    most: float = inf
    open_below: bool = False
    """True where `least` itself is not allowed."""

    def allow(self, value: float) -> bool:
        """True for a number within the bounds."""
        return value <= self.most and (value > self.least if self.open_below else value >= self.least)

    def __str__(self) -> str:
        least, most = _figure(self.least), _figure(self.most)
        if self.open_below:
            return f"above {least}" + (f" and at most {most}" if self.most < inf else "")
        if self.most == inf:
            return f"at least {least}"
        return f"at most {most}" if self.least == -inf else f"between {least} and {most}"


def stored_as(key: str) -> Mapping[str, str]:
    """Metadata of a dataclass field whose key in a file is not its name: `field(metadata=stored_as("key"))`."""
    return {_KEY: key}


def parse(kind: Any, value: object, name: str, *, unknown: Unknown = "refuse") -> Any:
    """Convert a JSON or YAML value to the type `kind`.

    kind: a dataclass, `tuple`, `Mapping[str, ...]`, `Literal`, `Annotated` with `Bounds`, str, int, float, bool, Any,
    or a union of these and None. name: the value's name in errors; "" names keys alone. Raises SchemaError, and
    whatever WsiMagnetError a dataclass's own `__post_init__` raises.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or kind is object:
        return value
    if is_dataclass(kind):
        return _parse_dataclass(kind, value, name, unknown)
    if origin is Annotated:
        return _bounded(parse(arguments[0], value, name, unknown=unknown), arguments[1:], name)
    if origin is Literal:
        # True == 1 to Python.
        if not any(value == word and type(value) is type(word) for word in arguments):
            raise _not(value, name, _describe(kind))
        return value
    if origin is tuple:
        return _parse_tuple(arguments, value, name, unknown)
    if origin in (Mapping, dict):
        return {
            _expect(str, key, f"a key of {name}"): parse(arguments[1], one, _below(name, key), unknown=unknown)
            for key, one in _expect(dict, value, name).items()
        }
    if origin in (UnionType, Union):
        return _parse_union(kind, value, name, unknown)
    return float(_number(value, name)) if kind is float else _expect(kind, value, name)


def to_json(value: Any) -> Any:
    """Convert dataclasses, mappings and tuples to the plain values that `parse` reads."""
    if is_dataclass(value) and not isinstance(value, type):
        return {_key(f): to_json(getattr(value, f.name)) for f in fields(value) if f.init}
    if isinstance(value, Mapping):
        return {key: to_json(one) for key, one in value.items()}
    return [to_json(one) for one in value] if isinstance(value, tuple | list) else value


def _parse_dataclass(kind: Any, value: object, name: str, unknown: Unknown) -> Any:
    values = _expect(dict, value, name)
    known, needed = _fields(kind)
    where = f"{name}: " if name else ""
    if missing := needed - values.keys():
        raise SchemaError(f"{where}missing field {_names(missing)}")
    if unknown == "refuse" and (strange := values.keys() - known.keys()):
        raise SchemaError(f"{where}unknown field {_names(strange)}; known are {', '.join(known)}")
    made = {
        field_name: parse(hint, values[key], _below(name, key), unknown=unknown)
        for key, (field_name, hint) in known.items()
        if key in values
    }
    try:
        return kind(**made)
    except ConfigError as error:
        if name and error.arguments:  # it knows the field, and not where its own value stands
            raise ConfigError(f"{name}.{error}", arguments=error.arguments) from None
        raise
    except WsiMagnetError:
        raise
    except ValueError as error:
        raise SchemaError(f"{where}{error}") from None


@cache
def _fields(kind: Any) -> tuple[dict[str, tuple[str, Any]], frozenset[str]]:
    """(Name, type) of each field by its key, and the keys of fields without a default."""
    hints, own = get_type_hints(kind, include_extras=True), [f for f in fields(kind) if f.init]
    needed = frozenset(_key(f) for f in own if f.default is MISSING and f.default_factory is MISSING)
    return {_key(f): (f.name, hints[f.name]) for f in own}, needed


def _key(one: Field[Any]) -> str:
    key: str = one.metadata.get(_KEY, one.name)
    return key


def _parse_tuple(kinds: tuple[Any, ...], value: object, name: str, unknown: Unknown) -> tuple[Any, ...]:
    items = _expect(list, value, name)
    if kinds[-1] is ...:
        kinds = kinds[:1] * len(items)
    if len(items) != len(kinds):
        raise SchemaError(f"{name} has {len(items)} values, not {len(kinds)}")
    pairs = enumerate(zip(kinds, items, strict=True))
    return tuple(parse(one, item, f"{name}[{i}]", unknown=unknown) for i, (one, item) in pairs)


def _parse_union(kind: Any, value: object, name: str, unknown: Unknown) -> Any:
    members = get_args(kind)
    if value is None and NoneType in members:
        return None
    members = tuple(one for one in members if one is not NoneType)
    if len(members) == 1:
        return parse(members[0], value, name, unknown=unknown)
    if set(members) == {int, float}:
        return _number(value, name)  # a whole number stays one
    for member in members:
        try:
            return parse(member, value, name, unknown=unknown)
        except SchemaError:
            continue
    raise _not(value, name, " or ".join(map(_describe, members)))


def _bounded(value: Any, annotations: tuple[Any, ...], name: str) -> Any:
    for bounds in annotations:
        if isinstance(bounds, Bounds) and value is not None and not bounds.allow(value):
            raise _not(value, name, str(bounds))
    return value


def _number(value: object, name: str) -> int | float:
    # True is an int in Python, but not what JSON means by 1.
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise _not(value, name, "a number")
    return value


def _figure(number: float) -> str:
    """A number without an exponent where it is whole: "1000000", "0.25"."""
    return f"{number:.0f}" if isfinite(number) and number == int(number) else f"{number:g}"


def _is_finite(value: int | float) -> bool:
    try:
        return isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _expect(kind: Any, value: object, name: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _not(value, name, _describe(kind))
    return value


def _describe(kind: Any) -> str:
    """A type in words, for errors."""
    if get_origin(kind) is Literal:
        words = get_args(kind)
        return f"one of {', '.join(map(str, words))}" if len(words) > 1 else str(words[0])
    if get_origin(kind) is Annotated:
        return _describe(get_args(kind)[0])
    if kind is list or get_origin(kind) is tuple:
        return "a list"
    return _WORDS.get(kind, "an object")


def _not(value: object, name: str, allowed: str) -> SchemaError:
    return SchemaError(f"{name or 'the content'} is {value!r:.60}, not {allowed}")


def _names(names: Any) -> str:
    return ", ".join(sorted(map(repr, names)))


def _below(name: str, key: object) -> str:
    return f"{name}.{key}" if name else str(key)
