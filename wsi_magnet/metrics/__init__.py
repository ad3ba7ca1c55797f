"""How good a segmentation is, as functions of counts that can be added up over pixels, images and groups."""

from __future__ import annotations
