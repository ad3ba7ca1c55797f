"""Annotated slides as a data set: the manifest that lists them, its splits, and the layouts of public data sets."""

from __future__ import annotations
