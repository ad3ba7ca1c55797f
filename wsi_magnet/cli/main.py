"""The group of commands, and the place where errors become exit codes.

Commands are looked up by name and imported when they are called or described; their modules import nothing but click at
the top, so that `wsi-magnet --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

from wsi_magnet._version import __version__
from wsi_magnet.errors import WsiMagnetError

COMMANDS = {
    name: name
    for name in (
        *("run", "batch", "status"),
        *("plan", "cluster", "info", "doctor"),
        *("overlay", "report", "export", "relabel"),
        *("manifest", "train", "evaluate", "bundle"),
    )
}
"""Command names and the modules of `wsi_magnet.cli` that hold them as `command`."""

STARTS_OVER = "The same command starts from the beginning."
NOT_STARTED = "Nothing of the new run is finished yet: the same command starts it again."
"""Message after a run with --restart or --overwrite was stopped before its first scale: the folder may still hold the
earlier result, which a run without these options may refuse."""

STOPPED = {
    "run": "What is finished is kept: the same command, without --restart or --overwrite, resumes.",
    "batch": "What is finished is kept: the same command, without --restart or --overwrite, resumes.",
    "train": "What is finished is kept: the same command, without --restart, resumes.",
    "manifest": "Finished STAPLE masks are kept; the same command resumes.",
}
"""Message after a command was stopped, by its name; the other commands start from the beginning."""

MEANT = {
    **dict.fromkeys(("--gpu", "--gpus", "--cuda"), "--device cuda"),
    "--cpu": "--device cpu",
    **dict.fromkeys(("--threads", "--processes", "--jobs"), "--workers"),
    "--model": "--bundle",
    "--force": "--overwrite",
}
"""Options that other programs have, and ours of that meaning."""

EXIT_ERROR, EXIT_INTERRUPTED = 1, 130


class LazyGroup(click.Group):
    """Imports a command's module when it is needed, and turns errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order in which a user needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"wsi_magnet.cli.{COMMANDS[cmd_name]}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an error that the user can correct is one line on stderr."""
        from wsi_magnet.runtime.process_setup import configure_command_line

        configure_command_line()
        try:
            return super().invoke(ctx)
        except WsiMagnetError as error:
            fail(error)
        except click.NoSuchOption as error:
            takes = {name for one in error.ctx.command.params for name in one.opts} if error.ctx else set()
            meant = MEANT.get(error.option_name)
            if meant and meant.split()[0] in takes:
                raise click.UsageError(f"No such option {error.option_name!r}; it is {meant} here", error.ctx) from None
            raise
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except KeyboardInterrupt as stop:
            message = str(stop) or STOPPED.get(ctx.invoked_subcommand or "", STARTS_OVER)
            click.echo(f"Stopped. {message}", err=True)
            sys.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:
            # The reader of our output has closed it (`| head`).
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            sys.exit(EXIT_ERROR)
        except Exception as error:
            fail(error, kind=f"Internal error ({type(error).__name__})")


def fail(error: Exception, kind: str = "Error") -> None:
    """Print one line on stderr and exit with 1; with WSI_MAGNET_TRACEBACK set, raise the error with its traceback."""
    if os.environ.get("WSI_MAGNET_TRACEBACK"):
        raise error
    from wsi_magnet.cli.options import in_option_words

    click.echo(f"{kind}: {' '.join(in_option_words(error).split())}", err=True)
    sys.exit(EXIT_ERROR)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="wsi-magnet")
def main() -> None:
    """Segment whole-slide images with MagNet, from coarse to fine, into OME-Zarr masks.

    \b
    Start with:
      wsi-magnet info slide.svs
      wsi-magnet run slide.svs -o results
      wsi-magnet overlay results/slide

    Not for diagnosis.
    """
