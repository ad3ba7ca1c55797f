"""A signal while a bar is live: the notice stays on the terminal. A signal during imports: the program ends."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import pytest

from wsi_magnet.cli.main import STARTS_OVER
from wsi_magnet.cli.main import STOPPED as MESSAGES
from wsi_magnet.cli.stopping import importing

STOPPED = """
import signal
import threading
import time
import sys
from rich.console import Console
from rich.progress import Progress
from wsi_magnet.cli.stopping import NOTICE, stopped_in_order

signal.signal(signal.SIGINT, {disposition})
try:
    with stopped_in_order(lambda: "message", 130), Progress(console=Console(stderr=True)) as progress:
        bars = [progress.add_task(name, total=10) for name in ("all slides", "one")]
        print("ready", file=sys.__stdout__, flush=True)
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            if {is_busy}:  # as a run is, which lets go of its workers first
                [thread.join() for thread in threading.enumerate() if thread.name == NOTICE]
            raise
except KeyboardInterrupt:
    pass
"""
BELOW_THE_BARS = "\x1b[1A\x1b[2K"
"""The terminal has gone up a line and cleared it: the bars are drawn again below the printed line."""


def shown_after(*signals: int, disposition: str = "signal.default_int_handler", is_busy: bool = True) -> str:
    """Text on the terminal of a program that gets these signals."""
    ours, theirs = pty.openpty()
    script = STOPPED.format(disposition=disposition, is_busy=is_busy)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    for number in signals:
        process.send_signal(number)
    shown = b""
    try:
        while more := os.read(ours, 65536):
            shown += more
    except OSError:  # how a terminal ends whose other side is closed
        pass
    assert process.wait(timeout=60) == 0
    return shown.decode()


def test_the_notice_stands_above_the_bars() -> None:
    assert f"{BELOW_THE_BARS}Stopping; a second Ctrl-C stops at once.\r\nall slides" in shown_after(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_program_that_ends_at_once_prints_the_notice_too(number: int) -> None:
    assert "Stopping; a second Ctrl-C stops at once." in shown_after(number, is_busy=False)


def test_an_ignored_signal_stays_ignored() -> None:
    """The program would end at once by the second signal if it took the first."""
    shown = shown_after(signal.SIGINT, signal.SIGINT, signal.SIGTERM, disposition="signal.SIG_IGN")
    assert shown.count("Stopping; a second Ctrl-C") == 1


IMPORTING = """
import sys
import time
from importlib.abc import MetaPathFinder

class Swallowing(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            print("importing", flush=True)
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                raise RecursionError from None

sys.meta_path.insert(0, Swallowing())
from wsi_magnet.cli.main import main

main({arguments!r})
"""


TRAIN = ("train", "m.csv", "--config", "c.yaml", "-o", "b.safetensors")


@pytest.mark.parametrize(
    ("number", "arguments", "module", "message"),
    [
        (signal.SIGTERM, TRAIN, "numpy", MESSAGES["train"]),
        (signal.SIGINT, TRAIN, "numpy", MESSAGES["train"]),
        (signal.SIGTERM, ("evaluate", "m.csv"), "wsi_magnet.evaluate.methods", STARTS_OVER),
    ],
)
def test_a_signal_during_imports_ends_the_program(
    number: int, arguments: tuple[str, ...], module: str, message: str
) -> None:
    script = IMPORTING.format(arguments=arguments, module=module)
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    assert process.communicate(timeout=60)[1] == f"Stopped. {message}\n"
    assert process.returncode == 130


def test_after_imports_sigterm_is_like_ctrl_c() -> None:
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        with importing("", 130):
            assert signal.getsignal(signal.SIGINT) == signal.getsignal(signal.SIGTERM) != before[signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) == before[signal.SIGINT]
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before[signal.SIGTERM])
