"""Segmentation networks, the refinement module, and the bundles that hold them."""

from __future__ import annotations
