"""Segmentation metrics as functions of counts that add up over pixels, images and groups."""

from __future__ import annotations
