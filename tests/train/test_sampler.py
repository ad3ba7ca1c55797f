"""Positions of crops: every group as often, only classes that are there, always on the canvas."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wsi_magnet.dataset.label_counts import LabelCounts
from wsi_magnet.dataset.sample import Sample
from wsi_magnet.geometry import Size
from wsi_magnet.scales import scale_at
from wsi_magnet.train.sampler import CropSampler, box_round, class_pixels, jitter

DRAWS = 2000


def surveyed(
    name: str, blocks: list[list[int]], counts: dict[int, int], group: str = "g", mpp: float = 1.0, site: str = ""
) -> tuple[Sample, LabelCounts]:
    """A sample with these classes in its blocks of 64 pixels, as sets, on a slide of 0.5 mpp."""
    presence = np.array(blocks, np.uint32)
    size = Size(presence.shape[1] * 128, presence.shape[0] * 128)
    sample = Sample(row=2, image=Path(f"/{name}.png"), annotations=(), mpp=0.5, group=group, split="train", site=site)
    return sample, LabelCounts(scale_at(mpp, (0.5, 0.5), size), counts, presence)


def drawn(sampler: CropSampler) -> Counter[str]:
    """How often each sample is drawn from."""
    rng = np.random.default_rng(0)
    return Counter(sampler.draw(rng).sample.name for _ in range(DRAWS))


def test_a_class_without_pixels_is_never_drawn() -> None:
    sampler = CropSampler(dict([surveyed("a", [[0b001, 0b100]], {0b001: 10, 0b100: 10})]), 3, balance=0.0)
    rng = np.random.default_rng(0)
    assert {sampler.draw(rng).centre_xy[0] // 128 for _ in range(200)} == {0, 1}


def test_groups_are_drawn_alike_however_many_images_they_have() -> None:
    many = [surveyed(f"many{i}", [[1]], {1: 5000}, group="many") for i in range(9)]
    found = drawn(CropSampler(dict([*many, surveyed("single", [[1]], {1: 5}, group="single")]), 1, balance=1.0))
    assert abs(found["single"] / DRAWS - 0.5) < 0.05


def test_sites_are_drawn_alike_however_many_groups_they_have() -> None:
    large = [surveyed(f"large{i}", [[1]], {1: 50}, group=f"l{i}", site="large") for i in range(9)]
    small = [surveyed(f"small{i}", [[1]], {1: 50}, group=f"s{i}", site="small") for i in range(2)]
    found = drawn(CropSampler(dict([*large, *small]), 1, balance=1.0))
    assert abs(sum(count for name, count in found.items() if name.startswith("small")) / DRAWS - 0.5) < 0.05
    assert abs(found["small0"] / DRAWS - 0.25) < 0.05


def test_a_class_is_drawn_from_the_sites_that_have_it() -> None:
    data = dict([surveyed("a", [[1]], {1: 9}, site="x"), surveyed("b", [[3]], {1: 9, 2: 9}, "h", site="y")])
    sampler, rng = CropSampler(data, 2, balance=0.0), np.random.default_rng(0)
    assert sampler.draw(rng).sample.site in {"x", "y"}
    found = drawn(sampler)
    assert abs(found["b"] / DRAWS - 0.75) < 0.05


def test_one_site_draws_what_no_site_draws() -> None:
    parts = [("a", [[1]], {1: 9}, "g"), ("b", [[1, 0], [1, 1]], {1: 9}, "h")]
    rngs = [np.random.default_rng(3) for _ in range(2)]
    both = [CropSampler(dict([surveyed(*one, site=site) for one in parts]), 1, balance=0.5) for site in ("", "x")]
    spots = [[sampler.draw(rng).centre_xy for _ in range(30)] for sampler, rng in zip(both, rngs, strict=True)]
    assert spots[0] == spots[1]


@pytest.mark.parametrize(("balance", "share"), [(0.0, 0.5), (0.5, 1 / 11), (1.0, 1 / 101)])
def test_classes_are_drawn_with_a_power_of_their_pixels(balance: float, share: float) -> None:
    data = dict([surveyed("often", [[1]], {1: 10_000}), surveyed("rare", [[2]], {2: 100})])
    assert abs(drawn(CropSampler(data, 2, balance))["rare"] / DRAWS - share) < 0.04


def test_a_class_that_only_open_sets_name_is_drawn_where_they_are() -> None:
    sampler = CropSampler(dict([surveyed("a", [[0b01, 0b11, 0b11]], {0b01: 50, 0b11: 100})]), 2, balance=0.0)
    rng = np.random.default_rng(0)
    assert {sampler.draw(rng).centre_xy[0] // 128 for _ in range(200)} == {0, 1, 2}


def test_a_spot_lies_in_a_block_that_holds_something() -> None:
    blocks = [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    sampler = CropSampler(dict([surveyed("a", blocks, {1: 9})]), 1, balance=0.5)
    rng = np.random.default_rng(1)
    spots = [sampler.draw(rng).centre_xy for _ in range(200)]
    assert {(int(x // 128), int(y // 128)) for x, y in spots} == {(2, 0), (0, 2)}


def test_the_same_generator_draws_the_same_spots() -> None:
    sampler = CropSampler(
        dict([surveyed("a", [[1, 3]], {1: 9, 2: 4}), surveyed("b", [[2]], {2: 4}, "h")]), 2, balance=0.5
    )
    first, second = np.random.default_rng(5), np.random.default_rng(5)
    assert [sampler.draw(first) for _ in range(20)] == [sampler.draw(second) for _ in range(20)]


def test_pixels_are_counted_over_all_samples() -> None:
    data = dict([surveyed("a", [[3]], {0b01: 10, 0b11: 4}), surveyed("b", [[2]], {0b10: 7})])
    assert class_pixels(data, 2).tolist() == [12, 9]


@given(st.floats(1, 4), st.integers(0, 10**6))
def test_jitter_stays_within_its_factor(factor: float, seed: int) -> None:
    mpp = jitter(2.0, factor, np.random.default_rng(seed))
    assert 2 / factor - 1e-9 <= mpp <= 2 * factor + 1e-9


def test_a_factor_of_1_changes_nothing() -> None:
    assert jitter(2.0, 1.0, np.random.default_rng(0)) == 2.0


@given(
    st.tuples(st.integers(1, 400), st.integers(1, 400)),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.integers(1, 300),
    st.floats(0.3, 5),
    st.integers(0, 1000),
)
def test_a_box_stays_on_the_canvas_or_contains_it(
    wh: tuple[int, int], place: tuple[float, float], side: int, mpp: float, seed: int
) -> None:
    scale = scale_at(mpp, (0.5, 0.5), Size(*wh))
    box = box_round((place[0] * wh[0], place[1] * wh[1]), scale, side, np.random.default_rng(seed))
    assert box.size == Size(side, side)
    for low, high, length in ((box.x0, box.x1, scale.size.width), (box.y0, box.y1, scale.size.height)):
        assert (low >= 0 and high <= length) if side <= length else (low <= 0 and high >= length)


@given(st.floats(0, 1000), st.floats(0, 1000), st.integers(1, 200))
def test_a_box_lies_round_its_centre_where_the_canvas_allows(x: float, y: float, side: int) -> None:
    scale = scale_at(1.0, (0.5, 0.5), Size(1000, 1000))
    assume(all(side / 2 + 1 <= c / 2 <= 500 - side / 2 - 1 for c in (x, y)))
    box = box_round((x, y), scale, side, np.random.default_rng(0))
    assert max(abs((box.x0 + box.x1) / 2 - x / 2), abs((box.y0 + box.y1) / 2 - y / 2)) <= 0.5
