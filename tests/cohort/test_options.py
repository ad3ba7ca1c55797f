"""Commands that are printed do what they say: they are parsed by the command line itself."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wsi_magnet.cli import options as cli_options
from wsi_magnet.cli.batch import command
from wsi_magnet.cli.run import command as run
from wsi_magnet.cohort.options import CohortOptions, run_command
from wsi_magnet.cohort.slide_job import SlideJob
from wsi_magnet.config import Execution, RunConfig

CONFIGS = [
    RunConfig(),
    RunConfig(0.123456789, "auto", False, 512, "0.5", True, True, 3, "bf16"),
    RunConfig(refine=0.2, keep_uncertainty=True, precision="fp32"),
]
EXECUTIONS = [
    Execution(),
    Execution("cuda:1", 3),
    Execution("cpu", scheduler="tcp://h:1"),
    Execution(cluster="/c.yaml"),
]
WORK = ("mpp", "refine", "no_tissue", "keep", "ngff", "tile", "batch_size", "precision")


def parsed(words: str, of: Any = command) -> dict[str, Any]:
    """What the command line understands."""
    _, name, *arguments = shlex.split(words)
    context = of.make_context(name, arguments)
    return dict(context.params)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
    "execution",
    [Execution(), Execution("cuda:1", 3), Execution("cpu", scheduler="tcp://h:1"), Execution(cluster="/c.yaml")],
)
def test_a_command_asks_for_the_same(config: RunConfig, execution: Execution) -> None:
    asked = CohortOptions(Path("/o u/t"), config, "/bundles/a b.safetensors", execution, 5, fail_fast=True)
    values = parsed(asked.command(["/s/**/*.svs", "/s/it's.svs"]))
    assert values["sources"] == ("/s/**/*.svs", "/s/it's.svs")
    assert (values["output"], values["bundle"]) == ("/o u/t", "/bundles/a b.safetensors")
    assert cli_options.make_config(**{name: values[name] for name in WORK}) == config
    told = {name: values[name] for name in ("device", "workers", "scheduler", "cluster")}
    assert cli_options.make_execution(**told) == execution
    assert (values["in_flight"], values["skip_errors"], values["retry_failed"]) == (5, False, False)


def test_a_slides_command_has_what_a_list_said_of_it() -> None:
    asked = CohortOptions(Path("/out"), RunConfig(mpp=0.5), "default")
    job = SlideJob("/s/a.svs", "/s/a.svs", "list", "a", mpp=0.25, bundle="/b.safetensors")
    values = parsed(asked.slide_command(job, "--retry-failed"))
    assert (values["sources"], values["mpp"], values["bundle"]) == (("/s/a.svs",), 0.25, "/b.safetensors")
    assert values["retry_failed"]
    assert values["override_mpp"], "whatever the slide says"
    other = parsed(asked.slide_command(SlideJob.of(Path("/s/b.svs"), "list")))
    assert (other["bundle"], other["mpp"], other["override_mpp"]) == ("default", 0.5, False)
    assert parsed(replace(asked, override_mpp=True).command(["/s"]))["override_mpp"]


def test_paths_do_not_depend_on_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = parsed(run_command("a.svs", "out", RunConfig(), "b.safetensors", Execution()), run)
    assert (values["slide"], values["output"]) == (f"{tmp_path}/a.svs", f"{tmp_path}/out")
    assert values["bundle"] == f"{tmp_path}/b.safetensors"
