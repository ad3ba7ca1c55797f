"""A result that somebody has damaged is told so in one line; one that is whole opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export.results import damage, make_result
from wsi_magnet.errors import ConfigError, ResultMismatchError, StoreError
from wsi_magnet.export.write import export
from wsi_magnet.results.reader import Result

DAMAGES: list[tuple[str, dict[str, Any]]] = [
    ("slide", {"mpp_xy": [0, 0.5]}),
    ("slide", {"mpp_xy": [float("nan"), 0.5]}),
    ("slide", {"mpp_xy": [-0.5, 0.5]}),
    ("slide", {"mpp_xy": [0.5]}),
    ("slide", {"bounds_xywh": [None, 0, 10, 10]}),
    ("slide", {"bounds_xywh": [-1, 0, 10, 10]}),
    ("slide", {"size_wh": [1.5, 10]}),
    ("config", {"mpp": "0.5"}),
    ("bundle", {"name": None}),
    ("bundle", {"classes": []}),
    ("bundle", {"classes": [{"name": 5, "value": 1, "color": [1, 2, 3]}]}),
    ("bundle", {"classes": [{"name": "a", "value": -1, "color": [1, 2, 3]}]}),
    ("bundle", {"classes": [{"name": "a", "value": 256, "color": [1, 2, 3]}]}),
    ("bundle", {"classes": [{"name": "a", "value": 1, "color": [1, 2]}]}),
    ("bundle", {"classes": [{"name": "a", "value": 1, "color": [1, 2, 300]}]}),
    ("bundle", {"classes": [{"name": "a\udce9", "value": 1, "color": [1, 2, 3]}]}),
    ("bundle", {"classes": [{"name": n, "value": 1, "color": [1, 2, 3]} for n in "ab"]}),
]


@pytest.mark.parametrize(("part", "changes"), DAMAGES)
def test_a_damaged_description_is_refused(tmp_path: Path, part: str, changes: dict[str, Any]) -> None:
    source = make_result(tmp_path / "result", np.ones((20, 20), np.uint8))
    damage(tmp_path / "result", **{part: {**source.record.to_json()[part], **changes}})
    with pytest.raises(ResultMismatchError, match=r"run\.json is damaged"):
        Result(tmp_path / "result")


def test_a_mask_that_has_lost_a_level_is_refused(tmp_path: Path) -> None:
    source = make_result(tmp_path / "result", np.ones((20, 20), np.uint8))
    source.mask_image.remove_level(0)
    with pytest.raises(StoreError, match="has lost its level 0"):
        Result(tmp_path / "result")


def test_nothing_is_written_into_the_result_itself(tmp_path: Path) -> None:
    make_result(tmp_path / "result", np.ones((20, 20), np.uint8))
    with pytest.raises(ConfigError, match="lies in the result folder"):
        export(tmp_path / "result", tmp_path / "result" / "run.json", "geojson")


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    make_result(tmp_path / "result", np.ones((20, 20), np.uint8))
    export(tmp_path / "result", tmp_path / "a" / "b" / "x.geojson", "geojson")
    assert (tmp_path / "a" / "b" / "x.geojson").exists()
