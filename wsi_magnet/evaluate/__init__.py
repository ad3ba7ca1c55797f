"""Methods held against annotated slides: one table as on the poster, with intervals."""

from __future__ import annotations
