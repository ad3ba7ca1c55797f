"""Text for people: numbers with units, durations, times, plurals, and the ends of processes."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from datetime import datetime
from difflib import get_close_matches


def counted(count: int, one: str, more: str = "") -> str:
    """A count with its noun: "1 worker", "2,000 workers". more: an irregular plural."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def how_it_ended(code: int | None, stderr: str) -> str:
    """End of a process that gave no result, in words. code: its exit code, or minus the signal that ended it."""
    if code == -signal.SIGKILL:
        return "it was killed (SIGKILL: out of memory?)"
    if code == -signal.SIGILL:
        return "it crashed (SIGILL: a library was built for a newer processor)"
    if code is not None and code < 0:
        return f"it crashed ({signal.Signals(-code).name})"
    last = stderr.strip().splitlines()[-1:] or ["no word"]
    return f"it ended with exit code {code} ({last[0][:200]})"


def area_text(mm2: float) -> str:
    """An area with three digits or three decimals: "3.41 mm²"."""
    if 0 < mm2 < 0.001:
        return "< 0.001 mm²"
    decimals = 3 if mm2 < 1 else 2 if mm2 < 10 else 1 if mm2 < 1000 else 0
    return f"{mm2:,.{decimals}f} mm²"


def percent_text(value: float) -> str:
    """A percentage with one decimal: "34.3 %"; a small share is never written as 0, nor nearly all as 100."""
    if 0 < value < 0.05:
        return "< 0.1 %"
    return f"{99.9 if 99.95 <= value < 100 else value:.1f} %"


def time_text(text: object) -> str:
    """An ISO time as "25 November 2026, 14:24 UTC"; any other text unchanged."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text)
    return f"{time.day} {time:%B %Y, %H:%M} {time.tzname() or ''}".strip()


def duration_text(seconds: float) -> str:
    """A duration as "41 s", "3 min 5 s", "2 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def rough_duration_text(seconds: float) -> str:
    """A duration for progress, in its largest units: "12 s", "3 min", "5 h 20 min", "2.1 days"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours < 48 else f"{hours / 24:.1f} days"


def byte_text(count: float) -> str:
    """A number of bytes in decimal units: "1.4 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def near_names(name: str, known: Iterable[str], most: int = 6) -> str:
    """Names to choose from after a mistake: "near it: a, b", or, where none is near, the first ones."""
    names = list(known)
    if near := get_close_matches(name, names, most, 0.5):
        return f"near it: {', '.join(near)}"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"there are: {', '.join(names[:most])}{more}"
