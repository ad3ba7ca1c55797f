"""Plans: every tissue cell once, whatever the tiles; nothing is read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_magnet.config import CELL_SIDES_PX, RunConfig
from wsi_magnet.errors import ConfigError
from wsi_magnet.geometry import Box, Size, ceil_div
from wsi_magnet.planning.estimate import estimate
from wsi_magnet.planning.plan import Plan, halo_px, make_plan, pool_any
from wsi_magnet.scales import build_ladder
from wsi_magnet.slides.types import Level, SlideInfo

MPPS = (4.0, 2.0, 1.0)


def slide_info(size: Size, mpp: float = 0.25) -> SlideInfo:
    """A slide that exists only in numbers."""
    levels = tuple(Level(Size(size.width // d, size.height // d), (d, d)) for d in (1, 4, 16))
    return SlideInfo("none.svs", "test", "test", levels, Box.of(size), (mpp, mpp), "test", "0" * 64)


def plan_of(size: Size, seed: int = 0, tile_px: int = 1024, share: float = 0.5, cell_px: int = 512) -> Plan:
    """A plan over random tissue."""
    info = slide_info(size)
    ladder = build_ladder(MPPS, (0.25, 0.25), size)
    rng = np.random.default_rng(seed)
    cells = [
        rng.random((ceil_div(s.size.height, cell_px), ceil_div(s.size.width, cell_px))) < share for s in ladder.scales
    ]
    return make_plan(info, ladder, cells, RunConfig(tile_px=tile_px), cell_px=cell_px, least_halo_px=32, median_px=5)


@given(
    st.integers(1, 30_000),
    st.integers(1, 30_000),
    st.sampled_from([512, 1024, 2048]),
    st.integers(0, 5),
    st.sampled_from(CELL_SIDES_PX),
)
def test_tiles_hold_every_tissue_cell_once(width: int, height: int, tile_px: int, seed: int, cell_px: int) -> None:
    for one in plan_of(Size(width, height), seed, tile_px, cell_px=cell_px).scales:
        seen = np.zeros(one.tissue.shape, int)
        for task in one.tasks(one.tissue):
            tile = one.layout.tile_box(task.row, task.col)
            for cell in task.cells:
                seen[cell.row, cell.col] += 1
                box = one.layout.cell_box(cell.row, cell.col)
                assert not box.empty
                assert box.intersect(tile) == box
        assert (seen == one.tissue).all()


@pytest.mark.parametrize("cell_px", CELL_SIDES_PX)
def test_cells_and_patches_do_not_depend_on_tiles(cell_px: int) -> None:
    layouts = [plan_of(Size(20_000, 9_000), tile_px=t, cell_px=cell_px).scales[2].layout for t in (512, 1024, 2048)]
    assert len({(f.cell_box(3, 2), f.patch_box(3, 2), f.patch_px) for f in layouts}) == 1


def test_patches_are_square_and_centred_on_their_cells() -> None:
    layout = plan_of(Size(5_000, 5_000)).scales[2].layout
    assert layout.patch_box(0, 0) == Box(-32, -32, 544, 544)
    assert layout.patch_box(1, 2).size == Size(layout.patch_px, layout.patch_px)
    assert layout.cell_box(2, 2) == Box(1024, 1024, 1250, 1250), "cut at the edge of the grid"


def test_the_side_of_a_cell_is_the_bundles() -> None:
    plan = plan_of(Size(5_000, 5_000), cell_px=128)
    assert [one.tissue.shape for one in plan.scales] == [(3, 3), (5, 5), (10, 10)]
    layout = plan.scales[2].layout
    assert (layout.tile_cells, layout.patch_px, layout.geometry.cell_px) == (8, 192, 128)
    assert layout.patch_box(0, 1) == Box(96, -32, 288, 160)
    assert layout.cell_box(9, 9) == Box(1152, 1152, 1250, 1250), "cut at the edge of the grid"
    assert plan.scales[0].layout.patch_px == 128 + 2 * 128, "what the coarsest scale sees round a cell stays"
    assert plan.pyramid_sizes == plan_of(Size(5_000, 5_000)).pyramid_sizes, "storage does not depend on cells"


def test_costs_follow_the_side_of_a_cell() -> None:
    """All of the slide is tissue, so that disk is the same, and halos make the difference of what is read."""
    size = Size(4 * 2048, 4 * 2048)
    found = [
        estimate(
            plan_of(size, share=1.0, cell_px=cell_px),
            slide_info(size),
            "small",
            classes=3,
            refine="all",
            threads=1,
            batch=1,
        )
        for cell_px in (512, 128)
    ]
    large, small = ([one.patches for one in cost.scales] for cost in found)
    assert (large, small) == ([1, 4, 16], [16, 64, 256])
    assert len({cost.disk_bytes for cost in found}) == 1
    assert [one.chunks for one in found[1].scales] == [1, 4, 16]
    read = [cost.scales[2].decoded_bytes for cost in found]
    assert read[1] / read[0] == pytest.approx(256 * 192**2 / (16 * 576**2))
    assert found[1].memory_bytes < found[0].memory_bytes


def test_chunks_with_a_cell_of_tissue_are_stored() -> None:
    plan = plan_of(Size(20_000, 20_000), share=0.02, cell_px=128)
    cost = estimate(plan, slide_info(Size(20_000, 20_000)), "small", classes=3, refine="all", threads=1, batch=1)
    for one, planned in zip(cost.scales, plan.scales, strict=True):
        assert one.chunks == len({(row // 4, col // 4) for row, col in np.argwhere(planned.tissue).tolist()})


def test_the_threads_of_a_worker_share_its_weights() -> None:
    size = Size(20_000, 20_000)
    bare, heavy = (
        [
            estimate(
                plan_of(size, share=1.0, cell_px=512),
                slide_info(size),
                "vit:uni2-h",
                classes=3,
                refine="all",
                threads=threads,
                batch=1,
                weight_bytes=weight_bytes,
            ).memory_bytes
            for threads in (1, 4)
        ]
        for weight_bytes in (0, 2_700_000_000)
    )
    assert [one - other for one, other in zip(heavy, bare, strict=True)] == [2_700_000_000] * 2
    assert bare[1] - bare[0] > 3 * 750 * 576**2


@pytest.mark.parametrize(
    ("least", "median", "ratio", "halo"),
    [(32, 5, 1, 32), (32, 5, 16, 32), (32, 5, 32, 64), (32, 11, 8, 64), (1, 1, 1, 32)],
)
def test_the_halo_has_room_for_the_median(least: int, median: int, ratio: int, halo: int) -> None:
    assert halo_px(least, median, ratio) == halo
    assert halo % max(32, ratio) == 0


def test_levels_are_read_where_their_detail_is() -> None:
    assert [p.layout.slide_level for p in plan_of(Size(9_000, 9_000)).scales] == [2, 1, 1]


def test_the_pyramid_ends_when_it_fits_in_a_chunk() -> None:
    plan = plan_of(Size(40_000, 10_000))
    assert plan.pyramid_sizes == (
        Size(10_000, 2_500),
        Size(5_000, 1_250),
        Size(2_500, 625),
        Size(1_250, 313),
        Size(625, 157),
        Size(313, 79),
    )
    assert [p.layout.mask_level for p in plan.scales] == [2, 1, 0]


def test_the_coarsest_scale_sees_more_round_a_cell() -> None:
    assert [p.layout.halo_px for p in plan_of(Size(9_000, 9_000)).scales] == [128, 32, 32]


def test_tissue_of_the_wrong_shape_is_refused() -> None:
    info = slide_info(Size(9_000, 9_000))
    ladder = build_ladder(MPPS, (0.25, 0.25), info.size)
    with pytest.raises(ConfigError, match=r"\(1, 1\) cells at 4 mpp where the grid has \(2, 2\)|cells at"):
        make_plan(info, ladder, [np.ones((1, 1), bool)] * 3, RunConfig(), cell_px=512, least_halo_px=32, median_px=5)


@pytest.mark.parametrize(("cell_px", "patch_px"), [(128, 224), (256, 512), (512, 1024)])
def test_patches_of_one_size_have_it_at_every_scale(cell_px: int, patch_px: int) -> None:
    info = slide_info(Size(3_000, 2_000))
    ladder = build_ladder(MPPS, (0.25, 0.25), info.size)
    sizes = [one.size for one in ladder.scales]
    cells = [np.ones((ceil_div(one.height, cell_px), ceil_div(one.width, cell_px)), bool) for one in sizes]
    sides = {"cell_px": cell_px, "least_halo_px": 32, "median_px": 5, "patch_px": patch_px}
    plan = make_plan(info, ladder, cells, RunConfig(), **sides)
    assert [one.layout.patch_px for one in plan.scales] == [patch_px] * 3
    far = make_plan(info, ladder, cells, RunConfig(), finest_halo_px=300, **sides)
    assert [one.layout.halo_px for one in far.scales][:2] == [(patch_px - cell_px) // 2] * 2
    assert far.scales[2].layout.halo_px == 320, "a method looks farther: the network is applied in windows"


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 50))
def test_pooling_by_its_slow_twin(rows: int, cols: int, n: int, seed: int) -> None:
    cells = np.random.default_rng(seed).random((rows, cols)) < 0.3
    pooled = pool_any(cells, n)
    for r in range(pooled.shape[0]):
        for c in range(pooled.shape[1]):
            assert pooled[r, c] == cells[r * n : (r + 1) * n, c * n : (c + 1) * n].any()
