"""Data sets of annotated slides: manifests, splits, and the layouts of public data sets."""

from __future__ import annotations
