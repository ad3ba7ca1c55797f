"""Allocate memory in one worker of a cluster until its nanny kills it: python -m drill.balloon ADDRESS."""

from __future__ import annotations

import sys
import threading
import time

from distributed import Client

STEP_BYTES = 64 << 20
STEP_S = 0.05


def swell() -> None:
    """Start to allocate memory, in its own thread."""

    def take() -> None:
        held = []
        while True:
            held.append(b"\1" * STEP_BYTES)
            time.sleep(STEP_S)

    threading.Thread(target=take, daemon=True).start()


def main() -> None:
    """Allocate memory in the first worker."""
    with Client(sys.argv[1], timeout=20) as client:
        worker = min(client.nthreads())
        client.run(swell, workers=[worker])


if __name__ == "__main__":
    main()
