"""SHELL as a network of an installed package, and its comparison with its own program."""

from __future__ import annotations
