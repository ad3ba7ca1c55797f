"""Requests and results of checks, and what the checks of all subjects share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from wsi_magnet.config import Execution
from wsi_magnet.system import cpu_threads

Status = Literal["ok", "note", "warning", "problem"]
"""note: good to know; warning: a run works, but worse or not always; problem: a run will not work."""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One finding about one subject."""

    subject: str
    """A word or two, as "memory"."""
    status: Status
    text: str
    remedy: str = ""
    """Advice; every warning and every problem has one."""


def ok(subject: str, text: str) -> CheckResult:
    """A result that is as it should be."""
    return CheckResult(subject, "ok", text)


def note(subject: str, text: str) -> CheckResult:
    """A result that is good to know."""
    return CheckResult(subject, "note", text)


def warning(subject: str, text: str, remedy: str) -> CheckResult:
    """A result with which a run works, but worse or not always."""
    return CheckResult(subject, "warning", text, remedy)


def problem(subject: str, text: str, remedy: str) -> CheckResult:
    """A result with which no run works."""
    return CheckResult(subject, "problem", text, remedy)


def problem_from(subject: str, error: BaseException, remedy: str) -> CheckResult:
    """The problem that an error of this package describes; `remedy` if the error names none after its last "; "."""
    text = one_line(error).removesuffix("; what is finished is kept")
    before, _, own = text.rpartition("; ")
    return problem(subject, before or text, own if before else remedy)


def one_line(error: BaseException) -> str:
    """An error's text on one line, or its type where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def call_within(seconds: float, function: Callable[[], Value]) -> Value:
    """The result of a function that may hang in the kernel, as network file systems do.

    Raises TimeoutError after that time (the hanging thread is left behind), and whatever the function raises.
    """
    values: list[Value] = []
    errors: list[Exception] = []

    def call() -> None:
        try:
            values.append(function())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not values:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return values[0]


@dataclass(frozen=True, slots=True)
class Request:
    """Options of the run that is checked."""

    execution: Execution
    bundle: str | None = None
    """None: the bundle that ships."""
    slide: str | None = None
    output: str | None = None
    mpp: float | None = None
    """Microns per pixel of the slide, where its metadata have none."""

    @property
    def remote(self) -> bool:
        """True if workers of a cluster compute, not this machine."""
        return self.execution.scheduler is not None or self.execution.cluster is not None

    @property
    def processes(self) -> int:
        """Worker processes on this machine."""
        return self.execution.workers or 1

    @property
    def threads(self) -> int:
        """Threads of each of them."""
        return max(1, cpu_threads() // self.processes)


@dataclass(frozen=True, slots=True)
class Needs:
    """Memory and disk that a run takes at most, by `wsi_magnet.planning.estimate`.

    The defaults are those of the bundle that ships, whose memory does not depend on the slide's size.
    """

    process_bytes: int = 540_000_000
    """Memory of a worker process without its threads."""
    thread_bytes: int = 304_000_000
    """Memory of each thread."""
    disk_bytes: int | None = None
    """Size of the result before compression; None without a slide."""

    def memory_bytes(self, processes: int, threads: int) -> int:
        """Memory of some processes with so many threads each."""
        return processes * (self.process_bytes + threads * self.thread_bytes)
