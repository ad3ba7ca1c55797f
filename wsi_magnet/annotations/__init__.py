"""Annotations of slides, drawn or painted, read lazily as label sets on any scale's grid."""

from __future__ import annotations
