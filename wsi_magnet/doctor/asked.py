"""What an examination is asked to look at."""

from __future__ import annotations

from dataclasses import dataclass

from wsi_magnet.config import Execution
from wsi_magnet.system import cpu_threads


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run would be given."""

    execution: Execution
    bundle: str | None = None
    """None is the one that ships."""
    slide: str | None = None
    output: str | None = None

    @property
    def remote(self) -> bool:
        """True where the work is not done by this machine."""
        return self.execution.scheduler is not None or self.execution.cluster is not None

    @property
    def own_device(self) -> str:
        """What this machine is to compute on: whatever it has, where others do the work."""
        return "auto" if self.remote else self.execution.device

    @property
    def processes(self) -> int:
        """Worker processes of this machine."""
        return self.execution.workers or 1

    @property
    def threads(self) -> int:
        """Of each of them."""
        return max(1, cpu_threads() // self.processes)
