"""Dask's loggers, which print screens of tracebacks for a lost worker; what users can mend is said in our own words."""

from __future__ import annotations

import logging


def quieten() -> None:
    """Have them say nothing short of the end of the world, in this process."""
    for name in ("distributed", *logging.root.manager.loggerDict):
        if name.partition(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL)


def dask_setup(worker: object) -> None:
    """For worker processes of this machine, whose stderr is the run's; Dask's nanny imports this module by name."""
    quieten()
