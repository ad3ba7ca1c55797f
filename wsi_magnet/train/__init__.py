"""Both stages of MagNet's training: a backbone on crops of every scale, then refinement modules on its outputs."""

from __future__ import annotations
