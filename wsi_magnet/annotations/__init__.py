"""What people have drawn or painted on slides, read lazily as sets of classes on any scale's grid."""

from __future__ import annotations
