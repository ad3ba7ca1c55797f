"""Calling commands as a shell does, without the shell."""

from __future__ import annotations

from collections.abc import Callable

from click.testing import CliRunner, Result

from wsi_magnet.cli.main import main

Call = Callable[..., Result]


def call_command(*arguments: object) -> Result:
    """Run `wsi-magnet` with these arguments."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


def one_line(result: Result) -> str:
    """The error of a command that failed as it should: exit 1, one line on stderr, no traceback."""
    assert result.exit_code == 1, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith(("Error:", "Internal error"))]
    assert len(errors) == 1, result.stderr
    assert errors[0].startswith("Error: ")
    assert "Traceback" not in result.output
    return errors[0]
