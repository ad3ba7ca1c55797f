"""Numbers, and how processes end, as people say them."""

from __future__ import annotations

import signal


def counted(count: int, one: str, more: str = "") -> str:
    """One or many of something: "1 worker", "2 workers". more: the plural, where it is not made with an s."""
    return f"{count} {one if count == 1 else more or one + 's'}"


def how_it_ended(code: int | None, stderr: str) -> str:
    """How a process ended that did not answer. code: its exit code, or minus the signal that ended it."""
    if code == -signal.SIGKILL:
        return "it was killed (SIGKILL: out of memory?)"
    if code == -signal.SIGILL:
        return "it crashed (SIGILL: a library was built for a newer processor)"
    if code is not None and code < 0:
        return f"it crashed ({signal.Signals(-code).name})"
    last = stderr.strip().splitlines()[-1:] or ["no word"]
    return f"it ended with exit code {code} ({last[0][:200]})"
