"""Metrics of a segmentation as functions of counts that are additive over pixels, images and groups."""

from __future__ import annotations
