"""One MagNet step on tensors: no networks, no slides, no files."""

from __future__ import annotations
