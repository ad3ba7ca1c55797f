"""HTML reports: one page for each slide, and an index for several."""

from __future__ import annotations
