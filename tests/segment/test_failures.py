"""Parts of a slide that cannot be read: recorded, loud, and nothing else is lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.commands import Call, one_line
from tests.runs import MadeRun, labels_of, run_serially
from tests.slides_made import write_stained_slide
from wsi_magnet.config import RunConfig
from wsi_magnet.geometry import Size

SIZE = Size(6000, 4500)
BROKEN = (1, 2, 3)
"""Level 1 (0.5 µm/px), row 2 and column 3 of its tiles of 512: where scale 0.5 reads."""


def slides(tmp_path: Path) -> tuple[Path, Path]:
    whole = write_stained_slide(tmp_path / "whole.tif", SIZE, tissue_share=0.7)
    torn = write_stained_slide(tmp_path / "torn.tif", SIZE, tissue_share=0.7, broken=[BROKEN])
    return whole, torn


def test_a_broken_tile_is_recorded_and_the_rest_is_whole(call: Call, made_run: MadeRun, tmp_path: Path) -> None:
    whole, torn = slides(tmp_path)
    out = tmp_path / "out"
    assert call("run", whole, "-o", out, "--bundle", made_run.bundle).exit_code == 0
    result = call("run", torn, "-o", out, "--bundle", made_run.bundle)
    assert "labelled 255" in one_line(result)
    assert "NOT ANALYSED" in result.stderr
    expected, found = labels_of(out / "whole"), labels_of(out / "torn")
    lost = found == 255
    row, col = BROKEN[1:]
    assert lost[row * 512 : (row + 1) * 512, col * 512 : (col + 1) * 512].all(), "the broken tile is a cell here"
    assert lost.sum() <= 9 * 512 * 512, "and nothing but the cells whose patches need it is lost"
    assert (found == expected)[~lost].mean() > 0.999
    run = json.loads((out / "torn" / "run.json").read_text())
    assert run["state"] == "finished with errors"
    assert len(run["failures"]) == run["summary"]["cells_not_analysed"] > 0
    assert "torn.tif" in run["failures"][0]
    assert run["summary"]["not_analysed_mm2"] > 0
    assert "labelled 255" in one_line(call("run", torn, "-o", out, "--bundle", made_run.bundle)), "it is said again"


def test_what_is_lost_does_not_depend_on_tiles(made_run: MadeRun, tmp_path: Path) -> None:
    _, torn = slides(tmp_path)
    made = MadeRun(torn, made_run.bundle)
    masks = [labels_of(run_serially(made, tmp_path / str(t), RunConfig(tile_px=t)).folder) for t in (512, 2048)]
    assert (masks[0] == masks[1]).all()


def test_what_is_lost_is_not_filled_in_by_finer_scales_that_do_not_look(made_run: MadeRun, tmp_path: Path) -> None:
    torn = write_stained_slide(tmp_path / "torn.tif", SIZE, tissue_share=0.7, broken=[(3, 0, 0)])
    made = MadeRun(torn, made_run.bundle)
    coarse_only = labels_of(run_serially(made, tmp_path / "out", RunConfig(refine=0.0)).folder)
    assert (coarse_only == 255).any(), "the coarsest scale could not be read there, and no other one looked"
    refined = labels_of(run_serially(made, tmp_path / "all", RunConfig(refine="all")).folder)
    assert not (refined == 255).any(), "the finer levels are whole"
    assert np.isin(refined, [0, 1, 2, 3]).all()
