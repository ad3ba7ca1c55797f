"""Takes memory in one worker of a cluster until its nanny ends it: python -m drill.balloon ADDRESS."""

from __future__ import annotations

import sys
import threading
import time

from distributed import Client

STEP_BYTES = 64 << 20
STEP_S = 0.05


def swell() -> None:
    """Begin to take memory, in a thread of its own."""

    def take() -> None:
        held = []
        while True:
            held.append(b"\1" * STEP_BYTES)
            time.sleep(STEP_S)

    threading.Thread(target=take, daemon=True).start()


def main() -> None:
    """In the first of the workers that are there."""
    with Client(sys.argv[1], timeout=20) as client:
        worker = min(client.nthreads())
        client.run(swell, workers=[worker])


if __name__ == "__main__":
    main()
