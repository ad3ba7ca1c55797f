"""A signal while a bar is live: the word that answers it stays on the terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

STOPPED = """
import sys
import time
from rich.console import Console
from rich.progress import Progress
from wsi_magnet.cli.stopping import stopped_in_order

try:
    with stopped_in_order("word", 130), Progress(console=Console(stderr=True)) as progress:
        bars = [progress.add_task(name, total=10) for name in ("all slides", "one")]
        print("ready", file=sys.__stdout__, flush=True)
        time.sleep(30)
except KeyboardInterrupt:
    pass
"""
BELOW_THE_BARS = "\x1b[1A\x1b[2K"
"""The terminal has gone up a line and cleared it: the bars are drawn anew under what is printed there."""


def test_the_word_stands_above_the_bars() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    shown = b""
    try:
        while more := os.read(ours, 65536):
            shown += more
    except OSError:  # how a terminal ends whose other side is closed
        pass
    assert process.wait(timeout=20) == 0
    assert f"{BELOW_THE_BARS}Stopping; once more stops at once.\r\nall slides" in shown.decode()
