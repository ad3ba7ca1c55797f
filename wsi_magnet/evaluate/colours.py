"""Colours of the figures."""

from __future__ import annotations

INK, ACCENT, PALE = "#33475b", "#c8102e", "#c9d1d9"
"""Colours of the other rows, of the reference row, and of guide lines."""
