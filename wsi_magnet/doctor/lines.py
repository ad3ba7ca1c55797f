"""A verdict: a line that says what is so, and what to do where that will not work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "PROBLEM"]


_RESUMES = "; what is finished is kept"
"""How errors of a run may go on; here nothing was begun."""


@dataclass(frozen=True, slots=True)
class Line:
    """One of an examination."""

    state: State
    subject: str
    """A word or two: what it is about."""
    text: str
    """What was found."""
    cure: str = ""
    """What to do; every warning and every problem has one."""


def ok(subject: str, text: str) -> Line:
    """As it should be."""
    return Line("ok", subject, text)


def warning(subject: str, text: str, cure: str) -> Line:
    """A run will work, but not as well as it could, or not always."""
    return Line("warning", subject, text, cure)


def problem(subject: str, text: str, cure: str) -> Line:
    """A run will not work."""
    return Line("PROBLEM", subject, text, cure)


def problem_of(subject: str, error: str, otherwise: str) -> Line:
    """Of an error of ours, which names its cure after its last semicolon; `otherwise` is for those that do not."""
    told = error.partition(_RESUMES)[0]
    text, _, cure = told.rpartition("; ")
    return problem(subject, text or told, cure if text else otherwise)


def byte_text(count: float) -> str:
    """As people write it: "1.4 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
