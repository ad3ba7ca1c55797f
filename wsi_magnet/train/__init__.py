"""Both stages of MagNet's training: a backbone on crops of every scale, then refinement modules on what it says."""

from __future__ import annotations
