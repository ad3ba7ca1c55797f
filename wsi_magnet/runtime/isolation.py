"""A task by itself, in a process of its own: what kills that process is the task's own doing, and kills nothing else.

Dask blames every task that was on a worker when it died. Which of them killed it is seen only where each is alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distributed.protocol.pickle import dumps, loads

from wsi_magnet.text import how_it_ended


@dataclass(frozen=True, slots=True)
class Died:
    """How a process ended that answered nothing."""

    how: str


def run_apart(function: Callable[[Any], Any], task: object) -> Any:
    """What a function answers in a process of its own, or `Died`; its errors are raised here."""
    command = [sys.executable, "-m", __name__]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run(command, input=dumps((function, task)), capture_output=True, env=environment)
    if ended.returncode or not ended.stdout:
        return Died(how_it_ended(ended.returncode, ended.stderr.decode(errors="replace")))
    answer = loads(ended.stdout)
    if isinstance(answer, Exception):
        raise answer
    return answer


def _main() -> None:
    """The process: task on stdin, answer on stdout, and nothing else there whatever libraries print."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    function, task = loads(sys.stdin.buffer.read())
    try:
        answer = function(task)
    except Exception as error:
        answer = error
    answers.write(dumps(answer))
    answers.close()
    # Threads of libraries, or a CUDA context, may not want to end; what is asked for is there.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    _main()
