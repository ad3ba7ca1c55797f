"""A program that starts worker processes without `if __name__ == "__main__":` gets one clear error."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import MadeRun
from wsi_magnet import CohortOptions, segment_cohort, segment_slide
from wsi_magnet.errors import ConfigError
from wsi_magnet.runtime.process_setup import (
    UNGUARDED_MARK,
    refuse_during_import_of_main,
    unguarded_main_is_reported,
)

CURE = 'put what starts a run below `if __name__ == "__main__":`'


def import_main(monkeypatch: pytest.MonkeyPatch, process: str) -> None:
    """Make this process look as one does while multiprocessing imports the main module in it."""
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    monkeypatch.setattr(multiprocessing.current_process(), "name", process)


def test_nothing_happens_in_a_program_itself() -> None:
    refuse_during_import_of_main()


def test_a_worker_process_ends_and_the_program_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import_main(monkeypatch, "Dask Worker process (from Nanny)")

    def start() -> None:
        with pytest.raises(SystemExit):
            refuse_during_import_of_main()
        raise RuntimeError("Nanny failed to start.")

    with pytest.raises(ConfigError) as caught, unguarded_main_is_reported():
        start()
    assert CURE in str(caught.value)
    assert UNGUARDED_MARK not in os.environ


def test_another_failure_is_left_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="another"), unguarded_main_is_reported():
        raise RuntimeError("another")


def test_a_process_of_another_program_gets_the_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import_main(monkeypatch, "Process-1")
    with pytest.raises(ConfigError) as caught:
        segment_slide("a.svs", tmp_path)
    assert CURE in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        segment_cohort([], CohortOptions(tmp_path))
    assert CURE in str(caught.value)


@pytest.mark.slow
def test_a_script_without_a_guard_gets_one_error(made_run: MadeRun, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from wsi_magnet import Execution, segment_slide\n"
        f"segment_slide({str(made_run.slide)!r}, {str(tmp_path)!r}, bundle={str(made_run.bundle)!r}, "
        "execution=Execution(workers=2))\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.count("Traceback") == 1
    assert ended.stderr.splitlines()[-1].endswith(
        f"worker processes import script.py again, and it starts a run there too; {CURE}"
    )


def test_a_future_that_dask_drops_is_not_on_the_terminal_of_a_command() -> None:
    code = (
        "import asyncio, gc, sys\nfrom wsi_magnet.runtime.process_setup import mute_libraries\n"
        "if sys.argv[1:]: mute_libraries()\n"
        "async def drop():\n"
        " asyncio.get_running_loop().create_future().set_exception(TimeoutError('dropped'))\n gc.collect()\n"
        "asyncio.run(drop())"
    )
    loud, muted = (
        subprocess.run([sys.executable, "-c", code, *more], capture_output=True, text=True, check=True).stderr
        for more in ([], ["muted"])
    )
    assert "dropped" in loud
    assert muted == ""
