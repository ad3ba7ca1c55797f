"""`make bench`: run and record every benchmark that needs only the repository, one after the other.

    python -m benchmarks [--slide FILE ...] [--tiatoolbox PYTHON] [--monai PYTHON] [--lazyslide PYTHON]

Peers run only where their options say which Python has them. One that fails does not stop the others; the exit code
is then 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec

BENCHMARKS: tuple[tuple[str, ...], ...] = (
    ("pipeline",),
    ("loop",),
    ("precision",),
    ("memory",),
    ("scaling",),
    ("crowd",),
    ("everyday",),
    ("compression",),
    ("export", "--side", "20000", "--regions", "2000"),
    ("day",),  # from the records of the others
)
"""Modules of the benchmarks, with their arguments."""

PEERS = ("tiatoolbox", "monai", "lazyslide")
"""Programs that `benchmarks.peers` measures where their Pythons are given."""


def main() -> int:
    """Run the benchmarks, each below its command. Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--slide", action="append", default=[], help="a real slide for pipeline and precision")
    for package in PEERS:
        parser.add_argument(f"--{package}", metavar="PYTHON", help="Python of an environment in which it is installed")
    options = parser.parse_args()
    slides = [word for slide in options.slide for word in ("--slide", slide)]
    peers = [word for name in PEERS if (python := getattr(options, name)) for word in (f"--{name}", python)]
    benchmarks = [
        (name, *arguments, *(slides if name in ("pipeline", "precision") else [])) for name, *arguments in BENCHMARKS
    ]
    benchmarks += [("peers", *peers)] if peers else []
    failed = [name for name, *arguments in benchmarks if not run(name, arguments)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, arguments: Sequence[str]) -> bool:
    """Run one benchmark; False if it failed. A missing one is skipped."""
    module = f"benchmarks.{name}"
    if find_spec(module) is None:
        print(f"\n{module} is missing", flush=True)
        return True
    print(f"\n$ python -m {' '.join([module, *arguments])} --record\n", flush=True)
    return subprocess.run([sys.executable, "-m", module, *arguments, "--record"]).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
