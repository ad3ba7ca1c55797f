"""Results as pages that people look at: one HTML file a slide, and an index for several."""

from __future__ import annotations
