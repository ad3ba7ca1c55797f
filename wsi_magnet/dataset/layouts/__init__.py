"""Folder layouts of public data sets, and their conversion to rows of a manifest."""

from __future__ import annotations
