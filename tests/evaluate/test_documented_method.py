"""The method of docs/evaluation.md, as it stands there, on a small slide."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.runs import MadeRun, labels_of, run_serially
from wsi_magnet.config import RunConfig
from wsi_magnet.evaluate.prediction import Prediction
from wsi_magnet.methods import registry

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"


@dataclass(frozen=True)
class Point:
    """An entry point of another package."""

    loaded: object
    name: str = "Dark"
    value: str = "dark_method:Dark"

    def load(self) -> object:
        """What it names."""
        return self.loaded


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first Python block of the page, installed as the module `dark_method`."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    module = ModuleType("dark_method")
    monkeypatch.setitem(sys.modules, "dark_method", module)
    exec(compile(code, str(PAGE), "exec"), vars(module))
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point(module.Dark)])


@pytest.mark.usefixtures("installed")
def test_the_documented_method_runs_and_its_result_can_be_scored(made_run: MadeRun, tmp_path: Path) -> None:
    config = RunConfig(tile_px=512, tissue=False, keep_probabilities=True, method="dark")
    folder = run_serially(made_run, tmp_path / "out", config).folder
    result = Prediction(folder)
    assert [one["cells_refined"] > 0 for one in result.scales[1:]] == [False, True]
    other = run_serially(made_run, tmp_path / "other", RunConfig(tile_px=1024, tissue=False, method="Dark")).folder
    assert np.array_equal(labels_of(folder), labels_of(other))
    plain = run_serially(made_run, tmp_path / "plain", RunConfig(tissue=False, method="downsample")).folder
    assert labels_of(plain).size < labels_of(folder).size
    assert len(np.unique(labels_of(folder))) > 1


def test_other_python_blocks_import_names_that_exist() -> None:
    for page in sorted(PAGE.parent.glob("*.md")):
        for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in re.findall(r"^from wsi_magnet.*$", code, re.MULTILINE):
                exec(compile(line, str(page), "exec"), {})
