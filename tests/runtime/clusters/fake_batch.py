"""Batch systems of a few lines of shell that start jobs at once, to test requests to them and their answers."""

from __future__ import annotations

from pathlib import Path

START = 'cat {script} >"{folder}/script-$$"; nohup setsid bash "{folder}/script-$$" >>"{folder}/output" 2>&1 & '
START += 'echo $! >>"{folder}/jobs"; '
ALIVE = 'for job in $(cat "{folder}/jobs" 2>/dev/null); do kill -0 "$job" 2>/dev/null && {tell}; done; true'
END = 'kill -TERM -- "-$1"'

COMMANDS = {
    "slurm": {
        "sbatch": START.replace("{script}", '"$1"') + "echo Submitted batch job $!",
        "squeue": ALIVE.replace("{tell}", "echo $job RUNNING None"),
        "scancel": END,
    },
    "pbs": {
        "qsub": START.replace("{script}", '"$1"') + "echo $!.server",
        "qstat": "echo; echo server:; echo Job id; echo ------; "
        + ALIVE.replace("{tell}", "echo $job.server user workq wsi-magnet 77 1 8 16gb 04:00 R 00:01"),
        "qdel": END,
    },
    "lsf": {
        "bsub": START.replace("{script}", "") + 'echo "Job <$!> is submitted to queue <normal>."',
        "bjobs": "echo JOBID USER STAT QUEUE; " + ALIVE.replace("{tell}", "echo $job user RUN normal"),
        "bkill": END,
    },
    "sge": {
        "qsub": START.replace("{script}", '"$1"') + """echo "Your job $! (\\"wsi-magnet\\") has been submitted\"""",
        "qstat": "echo job-ID prior name user state; echo -----; "
        + ALIVE.replace("{tell}", 'echo "  $job 0.55500 wsi-magnet user r"'),
        "qdel": END,
    },
}
"""By kind, and by name of the command."""


def write_commands(kind: str, folder: Path) -> Path:
    """A folder for the PATH with the commands of a batch system; what its jobs print is in its file `output`."""
    folder.mkdir()
    for name, script in COMMANDS[kind].items():
        command = folder / name
        command.write_text("#!/bin/bash\n" + script.replace("{folder}", str(folder)) + "\n")
        command.chmod(0o755)
    return folder


def jobs_of(folder: Path) -> list[int]:
    """Numbers of all jobs that were submitted, in their order."""
    path = folder / "jobs"
    return [int(line) for line in path.read_text().split()] if path.exists() else []
