"""Parts of a slide that cannot be read: recorded, loud, and nothing else is lost."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands import Call, one_line
from tests.runs import MadeRun, free_spec, labels_of, run_serially, write_bundle
from tests.slides_made import write_stained_slide
from wsi_magnet.config import RunConfig
from wsi_magnet.geometry import Size
from wsi_magnet.runtime.serial import SerialExecutor
from wsi_magnet.segment.slide import segment_slide

SIZE = Size(3000, 2200)
BROKEN = (1, 1, 1)
"""Level 1 (0.5 µm/px), row 1 and column 1 of its tiles of 512: where scale 0.5 reads."""


def slides(tmp_path: Path) -> tuple[Path, Path]:
    whole = write_stained_slide(tmp_path / "whole.tif", SIZE, tissue_share=0.7)
    torn = write_stained_slide(tmp_path / "torn.tif", SIZE, tissue_share=0.7, broken=[BROKEN])
    return whole, torn


def test_a_broken_tile_keeps_the_coarser_result(call: Call, made_run: MadeRun, tmp_path: Path) -> None:
    whole, torn = slides(tmp_path)
    out = tmp_path / "out"
    expected = labels_of(run_serially(MadeRun(whole, made_run.bundle), out).folder)
    result = call("run", torn, "-o", out, "--bundle", made_run.bundle, "--tile", 512)
    told = one_line(result)
    assert "torn.tif: " in told
    assert "the coarser result stays" in told
    found = labels_of(out / "torn")
    assert not (found == 255).any(), "a coarser scale could read all of it"
    row, col = BROKEN[1:]
    cell = np.s_[row * 512 : (row + 1) * 512, col * 512 : (col + 1) * 512]
    spec = free_spec(
        mpps=(2.0, 1.0), refiner_of=(0,), select_above=(0.05,), refine_above=(0.0,), temperature=(1.0,) * 2
    )
    coarser = MadeRun(whole, write_bundle(tmp_path / "coarser.safetensors", spec))
    stays = labels_of(run_serially(coarser, tmp_path / "coarser").folder).repeat(2, 0).repeat(2, 1)
    assert (found[cell] == stays[cell]).mean() > 0.9 > (expected[cell] == stays[cell]).mean(), "that of 1 µm/px"
    run = json.loads((out / "torn" / "run.json").read_text())
    assert run["state"] == "finished with errors"
    assert 0 < len(run["failures"]) <= 9, "the cells whose patches need the broken tile"
    assert all("torn.tif" not in text and "level 1" in text for text in run["failures"])
    assert run["summary"]["not_analysed_mm2"] == 0
    assert "the coarser result stays" in one_line(
        call("run", torn, "-o", out, "--bundle", made_run.bundle, "--tile", 512)
    )


@pytest.mark.slow
def test_what_stays_does_not_depend_on_tiles_or_on_reading_elsewhere(made_run: MadeRun, tmp_path: Path) -> None:
    whole, torn = slides(tmp_path)
    masks = [
        labels_of(run_serially(MadeRun(torn, made_run.bundle), tmp_path / str(t), RunConfig(tile_px=t)).folder)
        for t in (512, 2048)
    ]
    assert (masks[0] == masks[1]).all()
    expected = labels_of(run_serially(MadeRun(whole, made_run.bundle), tmp_path / "whole").folder)
    cells = {(row, col) for row, col in np.argwhere(masks[0] != expected) // 512}
    assert cells <= {(r, c) for r in range(3) for c in range(3)}


@pytest.mark.slow
def test_a_cell_that_no_scale_reads_is_255_and_a_finer_scale_repairs_it(made_run: MadeRun, tmp_path: Path) -> None:
    torn = write_stained_slide(tmp_path / "torn.tif", SIZE, tissue_share=0.7, broken=[(3, 0, 0)])
    made = MadeRun(torn, made_run.bundle)
    coarse_only = labels_of(run_serially(made, tmp_path / "out", RunConfig(refine=0.0)).folder)
    assert (coarse_only == 255).any(), "the coarsest scale could not be read there, and no other one was"
    refined = labels_of(run_serially(made, tmp_path / "all", RunConfig(refine="all")).folder)
    assert not (refined == 255).any(), "the finer levels are whole"
    assert np.isin(refined, [0, 1, 2, 3]).all()


class LosesFinest(SerialExecutor):
    """An executor whose workers survive no tile of the finest scale."""

    def map(self, function: Any, tasks: Any, *, on_lost: Any = None, **others: Any) -> Generator[Any, None, None]:
        """As an executor does that gives up a task."""
        for task in tasks:
            yield on_lost(task, "no worker survived it") if getattr(task, "scale", 0) == 2 else function(task)


def test_a_tile_that_no_worker_survives_keeps_the_coarser_result(made_run: MadeRun, tmp_path: Path) -> None:
    whole, _ = slides(tmp_path)
    done = segment_slide(
        whole, tmp_path / "lost", bundle=made_run.bundle, config=RunConfig(tile_px=1024), execution=LosesFinest()
    )
    found = labels_of(done.folder)
    # Where nothing of the finest scale is refined, its cells are the coarser result upsampled.
    spec = free_spec(refine_above=(0.0, 1.0))
    coarser = MadeRun(whole, write_bundle(tmp_path / "upsampled.safetensors", spec))
    stays = labels_of(run_serially(coarser, tmp_path / "stays", RunConfig(refine="auto")).folder)
    assert (found == stays).all()
    assert len(done.failures) == 9
    assert all("no worker survived it" in text for text in done.failures)
