"""The commands of a batch and of its slides, parsed by the command line itself."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.segment.test_command_line import CONFIGS, EXECUTIONS, WORK, WORKERS
from wsi_magnet.cli import options as cli_options
from wsi_magnet.cli.batch import command
from wsi_magnet.cohort.options import CohortOptions
from wsi_magnet.cohort.slide import CohortSlide
from wsi_magnet.config import Execution, RunConfig


def parsed(words: str) -> dict[str, Any]:
    """Parameters as the command line parses them."""
    _, name, *arguments = shlex.split(words)
    return dict(command.make_context(name, arguments).params)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_command_asks_for_the_same(config: RunConfig, execution: Execution) -> None:
    asked = CohortOptions(Path("/o u/t"), config, "/bundles/a b.safetensors", execution, 5, fail_fast=True)
    values = parsed(asked.command(["/s/**/*.svs", "/s/it's.svs"]))
    assert values["sources"] == ("/s/**/*.svs", "/s/it's.svs")
    assert (values["output"], values["bundle"]) == ("/o u/t", "/bundles/a b.safetensors")
    assert cli_options.make_config(**{name: values[name] for name in WORK}) == config
    assert cli_options.make_execution(**{name: values[name] for name in WORKERS}) == execution
    assert (values["in_flight"], values["skip_errors"], values["retry_failed"]) == (5, False, False)


def test_a_slides_command_has_the_options_of_a_list() -> None:
    asked = CohortOptions(Path("/out"), RunConfig(mpp=0.5), "default")
    job = CohortSlide("/s/a.svs", "/s/a.svs", "list", "a", mpp=0.25, bundle="/b.safetensors")
    values = parsed(asked.slide_command(job, "--retry-failed"))
    assert (values["sources"], values["mpp"], values["bundle"]) == (("/s/a.svs",), 0.25, "/b.safetensors")
    assert values["retry_failed"]
    assert values["override_mpp"], "whatever the slide says"
    other = parsed(asked.slide_command(CohortSlide.of(Path("/s/b.svs"), "list")))
    assert (other["bundle"], other["mpp"], other["override_mpp"]) == ("default", 0.5, False)
    assert parsed(replace(asked, override_mpp=True).command(["/s"]))["override_mpp"]
