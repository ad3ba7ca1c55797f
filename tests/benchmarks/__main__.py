"""`make bench`: every benchmark that needs nothing but the repository, one after the other."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

DEMO = Path(__file__).resolve().parents[2] / "demo" / "rings_P1_D5_9_13.tif"


def main() -> None:
    """Print each benchmark's own output under its command."""
    with tempfile.TemporaryDirectory() as folder:
        run = ["wsi_magnet", "run", str(DEMO), "--mpp", "0.93", "-o", folder, "--keep", "probabilities"]
        subprocess.run([sys.executable, "-m", *run], check=True)
        for module, *arguments in (
            ("tests.benchmarks.activations",),
            ("tests.benchmarks.compression", f"{folder}/{DEMO.stem}"),
            ("tests.benchmarks.memory",),
            ("tests.benchmarks.export",),
        ):
            print(f"\n$ python -m {' '.join([module, *arguments])}", flush=True)
            subprocess.run([sys.executable, "-m", module, *arguments], check=True)


if __name__ == "__main__":
    main()
