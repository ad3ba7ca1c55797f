"""Public values: frozen dataclasses that check their fields when they are made, and whose help() describes each field.

A field's string stands below it in the source and nowhere else; `documented` shows it in the class's docstring.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from functools import cache
from itertools import pairwise
from math import isfinite
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from textwrap import dedent, indent
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from wsi_magnet.errors import ConfigError, WsiMagnetError
from wsi_magnet.schema import Bounds, SchemaError

Class = TypeVar("Class", bound=type)

_WORDS: Mapping[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    NoneType: "None",
    Path: "a path",
    PathLike: "a path",
}


def check(kind: Any, value: object, name: str, error: type[WsiMagnetError] = ConfigError) -> Any:
    """A Python value as its type `kind` holds it: lists become tuples, numbers of NumPy those of Python.

    kind: as in `schema.parse`, or any class. name: of the argument or field. Raises `error`, which names the argument,
    the value and what is allowed; a ConfigError has the name in `arguments`.
    """
    try:
        return _conform(kind, value, name)
    except SchemaError as refusal:
        raise _error(error, str(refusal), name) from None


def check_fields(value: object, error: type[WsiMagnetError] = ConfigError, *, where: str = "") -> None:
    """Check the fields of a frozen dataclass against their types; for its `__post_init__`.

    where: begins the text of an error. Raises `error` as `check` does.
    """
    for name, kind in _hints(cast(Hashable, type(value))).items():
        given = getattr(value, name)
        try:
            found = _conform(kind, given, name)
        except SchemaError as refusal:
            raise _error(error, f"{where}{refusal}", name) from None
        if found is not given:
            object.__setattr__(value, name, found)


def documented(own: Class) -> Class:
    """Class decorator for a dataclass: its docstring names every field with type, default and description.

    The source is read when the docstring is first asked for, so that importing the class costs nothing.
    """
    own.__doc__ = _Docstring(own.__doc__ or "")  # type: ignore[assignment]
    return own


def describe(kind: Any) -> str:
    """A type in words: "'all', 'auto' or a number between 0 and 1"."""
    words = list(dict.fromkeys(_alternatives(kind)))
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


# ---- checking ------------------------------------------------------------------------------------------------------


def _error(kind: type[WsiMagnetError], text: str, name: str) -> WsiMagnetError:
    return kind(text, arguments=(name,)) if issubclass(kind, ConfigError) else kind(text)


@cache
def _hints(own: Hashable) -> dict[str, Any]:
    assert isinstance(own, type)
    hints = get_type_hints(own, include_extras=True)
    return {one.name: hints[one.name] for one in fields(cast(Any, own)) if one.init}


def _conform(kind: Any, value: Any, name: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or kind is object:
        return value
    if origin is Annotated:
        try:
            found = _conform(arguments[0], value, name)
        except SchemaError:
            raise _refusal(kind, value, name) from None
        if all(bounds.allow(found) for bounds in arguments[1:] if isinstance(bounds, Bounds)):
            return found
        raise _refusal(kind, value, name)
    if origin is Literal:
        if any(value == word and type(value) is type(word) for word in arguments):  # True == 1 to Python
            return value
        raise _refusal(kind, value, name)
    if origin in (UnionType, Union):
        return _conform_union(kind, value, name)
    if origin is tuple:
        return _conform_tuple(arguments, value, name)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise SchemaError(f"{name} is {_shown(value)}, not a dict with names")
        return {key: _conform(arguments[1], one, f"{name}[{key!r}]") for key, one in value.items()}
    return _conform_plain(kind, value, name)


def _conform_union(kind: Any, value: Any, name: str) -> Any:
    members = [one for one in get_args(kind) if one is not NoneType]
    if value is None and NoneType in get_args(kind):
        return None
    if len(members) == 1 and get_origin(members[0]) in (tuple, Mapping):
        return _conform(members[0], value, name)
    for member in members:
        try:
            return _conform(member, value, name)
        except SchemaError:
            continue
    raise _refusal(kind, value, name)


def _conform_tuple(kinds: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise SchemaError(f"{name} is {_shown(value)}, not a tuple")
    if kinds[-1] is ...:
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise SchemaError(f"{name} has {len(value)} values, not {len(kinds)}")
    return tuple(_conform(one, item, f"{name}[{i}]") for i, (one, item) in enumerate(zip(kinds, value, strict=True)))


def _conform_plain(kind: Any, value: Any, name: str) -> Any:
    if kind is bool:
        if isinstance(value, bool) or (getattr(getattr(value, "dtype", None), "kind", "") == "b" and value.ndim == 0):
            return bool(value)
    elif kind in (int, float):
        abstract: type = Integral if kind is int else Real
        if isinstance(value, abstract) and not isinstance(value, bool) and _is_finite(value):
            return kind(value)
    elif isinstance(value, kind if isinstance(kind, type) else object):
        return value
    elif kind is Path and isinstance(value, str):
        return Path(value)
    raise _refusal(kind, value, name)


def _is_finite(value: Any) -> bool:
    try:
        return isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _refusal(kind: Any, value: object, name: str) -> SchemaError:
    hint = f"; write {kind.__name__}(...)" if isinstance(kind, type) and isinstance(value, dict) else ""
    return SchemaError(f"{name} is {_shown(value)}, not {describe(kind)}{hint}")


def _shown(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _alternatives(kind: Any) -> Iterator[str]:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (UnionType, Union):
        for member in sorted(arguments, key=lambda one: one is NoneType):
            yield from _alternatives(member)
    elif origin is Literal:
        yield from map(repr, arguments)
    elif origin is Annotated:
        bounds = " and ".join(str(one) for one in arguments[1:] if isinstance(one, Bounds))
        yield f"{describe(arguments[0])}{' of' if bounds.startswith('at ') else ''} {bounds}".rstrip()
    elif origin is tuple:
        inner = describe(arguments[0])
        yield f"a tuple, each {inner}" if arguments[-1] is ... else f"a tuple of {len(arguments)}"
    elif isinstance(kind, type) and kind not in _WORDS and origin is None:
        yield f"{'an' if kind.__name__[0] in 'AEIO' else 'a'} {kind.__name__}"
    else:
        yield _WORDS.get(kind, "an object" if origin is None else "a dict")


# ---- documenting ---------------------------------------------------------------------------------------------------


class _Docstring:
    """A docstring that is completed when it is first read: Python asks a descriptor in `__doc__` for its text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __get__(self, instance: object, owner: type) -> str:
        own = next(one for one in owner.__mro__ if one.__dict__.get("__doc__") is self)
        return _complete(own, self._text)


@cache
def _complete(own: type, text: str) -> str:
    lines = [_field_lines(one, own) for one in fields(own) if one.init]
    return "\n".join([inspect.cleandoc(text), "", "Fields:", *(indent(one, "    ") for one in lines)])


def _field_lines(one: Field[Any], own: type) -> str:
    head = f"{one.name}: {_type_words(own, one)}"
    if one.default is not MISSING:
        head += f"; default {one.default!r}"
    elif one.default_factory is not MISSING:
        head += f"; default {one.default_factory()!r}"
    text = next((_strings(base)[one.name] for base in own.__mro__ if one.name in _strings(base)), "")
    return f"{head}\n{indent(text, '    ')}" if text else head


def _type_words(own: type, one: Field[Any]) -> str:
    try:
        kind = _hints(own)[one.name]
    except (NameError, TypeError):  # a name that only type checkers import
        return str(one.type)
    plain = all(member in _WORDS or get_origin(member) in (Literal, Annotated) for member in _members(kind))
    return describe(kind) if plain else str(one.type)


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (UnionType, Union) else (kind,)


@cache
def _strings(own: type) -> dict[str, str]:
    """The string below each field of a class, by the field's name; none where there is no source."""
    try:
        tree = ast.parse(dedent(inspect.getsource(own))).body[0]
    except (OSError, TypeError, SyntaxError):
        return {}
    found: dict[str, str] = {}
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    for above, below in pairwise(body):
        match above, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text)
    return found
