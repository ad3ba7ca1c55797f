"""Parametrisations of which `make test` tries a few cases, and `make test-slow` the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slow_except(few: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """Cases for `parametrize`, those that are not among the few marked slow. Raises ValueError if one of them is no
    case.
    """
    listed = list(cases)
    if unknown := [case for case in few if case not in listed]:
        raise ValueError(f"no such cases: {unknown}")
    return [case if case in few else _slow(case) for case in listed]


def _slow(case: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
