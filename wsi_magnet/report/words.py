"""How pages spell numbers, times and lengths."""

from __future__ import annotations

from datetime import datetime


def area(mm2: float) -> str:
    """As "3.41 mm²", to three digits or three decimals."""
    if 0 < mm2 < 0.001:
        return "< 0.001 mm²"
    decimals = 3 if mm2 < 1 else 2 if mm2 < 10 else 1 if mm2 < 1000 else 0
    return f"{mm2:,.{decimals}f} mm²"


def percent(value: float) -> str:
    """As "34.3 %"; what is there is never spelt as 0, nor what is missing as 100."""
    if 0 < value < 0.05:
        return "< 0.1 %"
    return f"{99.9 if 99.95 <= value < 100 else value:.1f} %"


def count(number: int, noun: str) -> str:
    """As "1 slide", "2,000 slides"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def when(text: object) -> str:
    """An ISO time as "25 November 2026, 14:24 UTC"; whatever else as it is."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text)
    return f"{time.day} {time:%B %Y, %H:%M} {time.tzname() or ''}".strip()


def duration(seconds: float) -> str:
    """As "41 s", "3 min 5 s", "2 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
