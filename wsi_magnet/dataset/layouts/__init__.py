"""The folders of public data sets as they are unpacked, and how each becomes rows of a manifest."""

from __future__ import annotations
