"""Registry of data-set layouts. Imports nothing heavy, because the command line's help uses it."""

from __future__ import annotations

from collections.abc import Mapping

from wsi_magnet.dataset.layouts import (
    aggc,
    cityscapes,
    deepglobe,
    folders,
    gleason2019,
    panda,
    rings,
    sicapv2,
    zurich_tma,
)
from wsi_magnet.dataset.layouts.base import Layout

LAYOUTS: Mapping[str, Layout] = {
    "folders": folders.LAYOUT,
    "gleason2019": gleason2019.LAYOUT,
    "panda-radboud": panda.RADBOUD,
    "panda-karolinska": panda.KAROLINSKA,
    "zurich-tma": zurich_tma.LAYOUT,
    "sicapv2": sicapv2.LAYOUT,
    "aggc": aggc.LAYOUT,
    "rings-glands": rings.GLANDS,
    "rings-tumour": rings.TUMOUR,
    "deepglobe": deepglobe.LAYOUT,
    "cityscapes": cityscapes.LAYOUT,
}
"""Layouts by their name in `wsi-magnet manifest`."""
