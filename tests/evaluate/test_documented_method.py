"""The method of docs/evaluation.md, as it stands there, on a small slide."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.runs import MadeRun, labels_of
from wsi_magnet.config import Execution, RunConfig
from wsi_magnet.evaluate.methods import Method, Settings
from wsi_magnet.evaluate.prediction import Prediction

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"


@pytest.fixture
def method(monkeypatch: pytest.MonkeyPatch) -> Method:
    """The first Python block of the page, run as the module `dark_method`."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    module = ModuleType("dark_method")
    monkeypatch.setitem(sys.modules, "dark_method", module)
    exec(compile(code, str(PAGE), "exec"), vars(module))
    found = module.METHOD
    assert isinstance(found, Method)
    return found


def test_the_documented_method_writes_a_result_that_can_be_scored(
    method: Method, made_run: MadeRun, tmp_path: Path
) -> None:
    settings = Settings(RunConfig(tile_px=512, tissue=False, keep_probabilities=True), Execution())
    bundle = method.prepare(made_run.slide, made_run.bundle, tmp_path, settings)
    folder = method.segment(made_run.slide, bundle, tmp_path / "out", settings)
    assert Prediction(folder).scales == []
    assert len(np.unique(labels_of(folder))) > 1


def test_other_python_blocks_import_names_that_exist() -> None:
    for page in sorted(PAGE.parent.glob("*.md")):
        for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in re.findall(r"^from wsi_magnet.*$", code, re.MULTILINE):
                exec(compile(line, str(page), "exec"), {})
