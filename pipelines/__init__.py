"""Training configurations, commands of the documentation, and examples; the package does not depend on this folder."""

from __future__ import annotations
