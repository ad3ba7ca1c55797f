"""Numbers as people say them."""

from __future__ import annotations


def counted(count: int, one: str, more: str = "") -> str:
    """One or many of something: "1 worker", "2 workers". more: the plural, where it is not made with an s."""
    return f"{count} {one if count == 1 else more or one + 's'}"
