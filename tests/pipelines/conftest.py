"""Makes the parts of the programs in `pipelines/` importable, as they are to the programs themselves."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "pipelines"))
