"""Speed of this machine on a few patches of a slide, and the time of a run that follows from it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runs import MadeRun, free_spec, write_bundle
from wsi_magnet.config import Execution, Refine, RunConfig
from wsi_magnet.geometry import Box
from wsi_magnet.nets.spec import read_spec
from wsi_magnet.planning.estimate import SPREAD, START_S, STORE_S, Cost, MachineSpeed, ScaleCost, ScaleSpeed, time_of
from wsi_magnet.planning.prepare import prepare
from wsi_magnet.scales import Scale
from wsi_magnet.slides.read import read_scale
from wsi_magnet.slides.registry import open_slide
from wsi_magnet.slides.types import Image, SlideReader
from wsi_magnet.worker.speed import _share, count_threads, measure_speed

SPEED = MachineSpeed((ScaleSpeed(2.0, 0.0, 1.0, 1.0), ScaleSpeed(3.0, 0.5, 0.25, 0.5)), 2, "cpu", 1.0)


def cost(*scales: tuple[int, int, int]) -> Cost:
    """Of (tiles, cells, patches) of each scale."""
    return Cost(tuple(ScaleCost(1.0, 0, tiles, cells, patches, 0, 0, cells) for tiles, cells, patches in scales), 0)


def test_time_is_that_of_the_patches_and_of_upsampling_the_other_cells() -> None:
    found = time_of(cost((4, 8, 8), (8, 32, 10)), SPEED, 0.25)
    coarse, fine = 8 * 2 + 8 * STORE_S / 2, 10 * 3 + 22 * 0.5 + 32 * STORE_S / 2
    for seconds, middle in zip(found.scales, (coarse, fine), strict=True):
        assert (seconds.least, seconds.most) == pytest.approx((middle / SPREAD, middle * SPREAD))
    assert found.total.most == pytest.approx(START_S + SPREAD * (coarse + fine))


def test_with_auto_the_time_is_that_of_the_cells_that_seem_uncertain() -> None:
    found = time_of(cost((4, 8, 8), (8, 32, 32)), SPEED, "auto").scales
    assert found[0].most == pytest.approx(SPREAD**2 * found[0].least)
    assert found[1].least == pytest.approx((8 * 3 + 24 * 0.5 + 32 * STORE_S / 2) / SPREAD)
    assert found[1].most == pytest.approx((16 * 3 + 16 * 0.5 + 32 * STORE_S / 2) * SPREAD)


def test_a_scale_of_one_tile_is_computed_by_one_thread() -> None:
    one, many = (time_of(cost((tiles, 4, 4), (4, 0, 0)), SPEED, "all").scales[0].most for tiles in (1, 4))
    assert one == pytest.approx(2 * many)


def test_a_slide_without_tissue_takes_the_start() -> None:
    assert time_of(cost((0, 0, 0), (0, 0, 0)), SPEED, "auto").total.most == START_S


def measured_on(made: MadeRun, refine: Refine, bundle: Path | None = None) -> tuple[MachineSpeed, list[float]]:
    """The speed, and the mpp of each patch that was read for it."""
    read: list[float] = []

    def noted(reader: SlideReader, scale: Scale, box: Box) -> Image:
        read.append(scale.mpp)
        return read_scale(reader, scale, box)

    own = bundle or made.bundle
    with closing(open_slide(made.slide, mpp=0.5)) as reader, pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsi_magnet.worker.speed.read_scale", noted)
        prepared = prepare(reader, read_spec(own)[0], RunConfig(mpp=0.5, refine=refine))
        return measure_speed(reader, prepared, str(own), Execution(device="cpu")), read


def test_cells_are_followed_through_every_scale(made_run: MadeRun) -> None:
    found, read = measured_on(made_run, "all")
    assert {*read} == {2.0, 1.0, 0.5}
    assert len(found.scales) == 3
    assert all(one.patch_s > 0 for one in found.scales)
    assert found.device == "cpu"


def test_what_auto_leaves_out_is_upsampled_and_not_read(made_run: MadeRun, tmp_path: Path) -> None:
    sure = write_bundle(tmp_path / "sure.safetensors", free_spec(refine_above=(1.0, 1.0)))
    found, read = measured_on(made_run, "auto", sure)
    assert {*read} == {2.0}
    assert all(one.upsample_s > 0 and one.least_uncertain == 0 and one.most_uncertain < 0.5 for one in found.scales[1:])
    unsure, _ = measured_on(made_run, "auto")
    assert all(one.most_uncertain == 1 and one.least_uncertain > 0.5 for one in unsure.scales)


def test_a_slide_without_tissue_is_measured_at_once(made_run: MadeRun) -> None:
    with closing(open_slide(made_run.slide, mpp=0.5)) as reader:
        prepared = prepare(reader, read_spec(made_run.bundle)[0], RunConfig(mpp=0.5))
        scales = tuple(replace(one, tissue=np.zeros_like(one.tissue)) for one in prepared.plan.scales)
        empty = replace(prepared, plan=replace(prepared.plan, scales=scales))
        assert len(measure_speed(reader, empty, str(made_run.bundle), Execution(device="cpu")).scales) == 3


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_the_range_of_a_share_has_the_share_of_the_sample(sample: list[bool]) -> None:
    least, most = _share(sample)
    assert 0 <= least <= sum(sample) / len(sample) <= most <= 1
    assert _share([]) == (0, 1)


def test_threads_of_processes() -> None:
    assert count_threads(Execution(workers=3)) % 3 == 0
    assert count_threads(Execution()) >= 1
