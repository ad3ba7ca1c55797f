"""The command of a run, parsed by the command line itself."""

from __future__ import annotations

import inspect
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from wsi_magnet.cli import options as cli_options
from wsi_magnet.cli.run import command
from wsi_magnet.config import Execution, RunConfig
from wsi_magnet.segment.command_line import run_command, with_recorded_refine

CONFIGS = [
    RunConfig(),
    RunConfig(
        0.123456789, "all", False, 512, "0.5", True, True, 3, "bf16", "Patching", "/r o i.json", ("A", "b c"), "/x.png"
    ),
    RunConfig(refine=0.2, keep_uncertainty=True, precision="fp32", tissue_mask="/t.xml"),
]
EXECUTIONS = [
    Execution(),
    Execution("cuda:1", 3, dashboard=True),
    Execution("cpu", scheduler="tcp://h:1"),
    Execution(cluster="/c.yaml"),
]
WORK = tuple(inspect.signature(cli_options.make_config).parameters)
WORKERS = tuple(inspect.signature(cli_options.make_execution).parameters)


def test_the_default_refines_what_is_uncertain() -> None:
    assert RunConfig().refine == "auto"
    assert "--refine" not in run_command("a.svs", "out", RunConfig(), None, Execution())


def test_the_configurations_below_try_every_option() -> None:
    same = [one.name for one in fields(RunConfig) if all(getattr(c, one.name) == one.default for c in CONFIGS)]
    assert not same, "give a configuration another value, and the command line an option"


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_command_asks_for_the_same_from_any_folder(
    config: RunConfig, execution: Execution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, name, *words = shlex.split(run_command("it's a.svs", "o ut", config, "b.safetensors", execution))
    values = command.make_context(name, words).params
    assert (values["slide"], values["output"]) == (f"{tmp_path}/it's a.svs", f"{tmp_path}/o ut")
    assert values["bundle"] == f"{tmp_path}/b.safetensors"
    assert cli_options.make_config(**{name: values[name] for name in WORK}) == config
    assert cli_options.make_execution(**{name: values[name] for name in WORKERS}) == execution


@pytest.mark.parametrize(
    ("refine", "command", "resumed"),
    [
        ("all", "wsi-magnet run a.svs -o out", "wsi-magnet run a.svs -o out --refine all"),  # the default of 0.1.0
        ("auto", "wsi-magnet run a.svs -o out", "wsi-magnet run a.svs -o out"),
        ("all", "wsi-magnet run a.svs -o out --refine all", "wsi-magnet run a.svs -o out --refine all"),
    ],
)
def test_a_recorded_command_asks_for_the_refinement_of_its_run(refine: str, command: str, resumed: str) -> None:
    assert with_recorded_refine(command, refine) == resumed
