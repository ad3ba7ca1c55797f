"""Open samples: one picture and what all its annotators say, errors that name the row, and a pool that lets go."""

from __future__ import annotations

import gc
import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.annotations.made import ALL, CLASSES, GLAND, STROMA, feature, square, write_geojson
from tests.dataset.made import made_sample
from wsi_magnet.annotations.types import Sets
from wsi_magnet.dataset.open_sample import SamplePool, majority_of, open_sample
from wsi_magnet.dataset.sample import Consensus, Sample
from wsi_magnet.errors import ManifestError, SlideReadError
from wsi_magnet.geometry import Box

IGNORED = 255
A = np.array([[1, 1, IGNORED, 1, IGNORED]], np.uint8)
B = np.array([[2, 1, 2, 2, IGNORED]], np.uint8)
C = np.array([[2, 2, IGNORED, IGNORED, IGNORED]], np.uint8)


def read(sample: Sample, rng: np.random.Generator | None = None) -> Sets:
    opened = open_sample(sample, CLASSES)
    scale = opened.scale(0.25)
    return opened.sets(scale, scale.grid, rng)


@pytest.mark.parametrize(
    ("consensus", "expected"),
    [
        ("first", [STROMA, STROMA, GLAND, STROMA, ALL]),
        ("majority", [GLAND, STROMA, GLAND, ALL, ALL]),
        ("soft", [GLAND, STROMA, GLAND, ALL, ALL]),
    ],
)
def test_what_three_annotators_say_together(tmp_path: Path, consensus: Consensus, expected: list[int]) -> None:
    assert read(made_sample(tmp_path, A, B, C, consensus=consensus)).tolist() == [expected]


def test_soft_draws_one_annotator_for_each_read(tmp_path: Path) -> None:
    sample = made_sample(tmp_path, A, B, C, consensus="soft")
    rng = np.random.default_rng(0)
    drawn = {tuple(read(sample, rng)[0].tolist()) for _ in range(40)}
    each = [[STROMA, STROMA, ALL, STROMA, ALL], [GLAND, STROMA, GLAND, GLAND, ALL], [GLAND, GLAND, ALL, ALL, ALL]]
    assert drawn == {tuple(one) for one in each}


def test_one_annotation_is_what_it_is(tmp_path: Path) -> None:
    assert read(made_sample(tmp_path, A, consensus="majority")).tolist() == [[STROMA, STROMA, ALL, STROMA, ALL]]


def test_without_an_annotation_nothing_is_labelled(tmp_path: Path) -> None:
    assert (read(made_sample(tmp_path)) == ALL).all()


@given(arrays.arrays(np.uint32, st.tuples(st.integers(1, 5), st.just(2), st.just(3)), elements=st.integers(1, 3)))
def test_majority_against_counting_votes(each: Sets) -> None:
    def winner(votes: list[int]) -> int:
        ranked = Counter(vote for vote in votes if vote != 3).most_common()
        return 3 if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]) else ranked[0][0]

    expected = [[winner(each[:, y, x].tolist()) for x in range(3)] for y in range(2)]
    assert majority_of(list(each), 3, Box(0, 0, 3, 2)).tolist() == expected


def test_regions_may_lie_over_a_label_image(tmp_path: Path) -> None:
    regions = write_geojson(tmp_path / "a.geojson", feature([square(0, 0, 2, 1)], "benign gland"))
    sample = made_sample(tmp_path, A, annotations=[regions])
    on_top = replace(sample, annotations=sample.annotations[::-1])
    assert read(on_top).tolist() == [[GLAND, GLAND, ALL, STROMA, ALL]]


def test_the_image_is_read_at_the_scale(tmp_path: Path) -> None:
    opened = open_sample(made_sample(tmp_path, np.zeros((30, 40), np.uint8)), CLASSES)
    image = opened.image(opened.scale(0.25), Box(5, 6, 8, 8))
    assert image[..., :2].tolist() == [[[5, 6], [6, 6], [7, 6]], [[5, 7], [6, 7], [7, 7]]]


# ---- errors ------------------------------------------------------------------------------------------------------


def test_a_sample_without_mpp_names_the_column(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"^row 7: .*image\.png has no usable mpp; .* in the mpp column$"):
        open_sample(made_sample(tmp_path, A, mpp=None), CLASSES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "1"}, "coding '1' is not LABEL=CLASS"),
        ({"annotations": [Path("no.png")]}, r"no\.png cannot be read"),
    ],
)
def test_what_cannot_be_opened_names_its_row(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ManifestError, match=f"^row 7: {message}"):
        open_sample(made_sample(tmp_path, A, **options), CLASSES)  # type: ignore[arg-type]


def test_an_image_that_is_missing_names_its_row(tmp_path: Path) -> None:
    sample = made_sample(tmp_path, A)
    sample.image.unlink()
    with pytest.raises(ManifestError, match=r"^row 7: .*image\.png: no such file"):
        open_sample(sample, CLASSES)


def test_a_label_that_nobody_knows_names_its_row_when_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"^row 7: .*mask_0\.png: unknown label 9"):
        read(made_sample(tmp_path, np.where(A == 1, np.uint8(9), A)))


# ---- the pool ----------------------------------------------------------------------------------------------------


def several(folder: Path, count: int) -> list[Sample]:
    samples = []
    for i in range(count):
        (folder / str(i)).mkdir()
        samples.append(made_sample(folder / str(i), A))
    return samples


def test_the_pool_keeps_the_last_used_open(tmp_path: Path) -> None:
    first, second, third = several(tmp_path, 3)
    pool = SamplePool(CLASSES, max_open=2)
    kept, dropped = pool.get(first), pool.get(second)
    pool.get(first)
    pool.get(third)
    assert (pool.get(first) is kept, pool.get(second) is dropped) == (True, False)


def test_the_pool_is_bounded_by_decoded_bytes(tmp_path: Path) -> None:
    samples = several(tmp_path, 4)
    each = open_sample(samples[0], CLASSES).decoded_bytes
    assert each == 5 * 4  # pixels, times RGB and one label image
    pool = SamplePool(CLASSES, max_decoded_bytes=2 * each)
    opened = [pool.get(sample) for sample in samples]
    assert [pool.get(sample) is one for sample, one in zip(samples[2:], opened[2:], strict=True)] == [True, True]
    assert pool.get(samples[0]) is not opened[0]


def test_the_pool_keeps_one_sample_that_is_larger_than_its_bound(tmp_path: Path) -> None:
    (sample,) = several(tmp_path, 1)
    pool = SamplePool(CLASSES, max_decoded_bytes=1)
    assert pool.get(sample) is pool.get(sample)


def test_what_falls_out_of_the_pool_is_closed_when_nobody_reads_it(tmp_path: Path) -> None:
    first, second = several(tmp_path, 2)
    pool = SamplePool(CLASSES, max_open=1)
    held = pool.get(first)
    reader = held.reader
    pool.get(second)
    scale = held.scale(0.25)
    assert held.image(scale, scale.grid).shape == (1, 5, 3)
    del held
    gc.collect()
    with pytest.raises(SlideReadError, match="closed"):
        reader.read_level(0, Box(0, 0, 1, 1))


def test_the_pool_serves_threads(tmp_path: Path) -> None:
    samples = several(tmp_path, 6)
    pool = SamplePool(CLASSES, max_open=2)

    def first_set(i: int) -> int:
        opened = pool.get(samples[i % 6])
        scale = opened.scale(0.25)
        return int(opened.sets(scale, scale.grid)[0, 0])

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(first_set, range(60))) == {STROMA}


def test_the_pool_goes_to_another_process_empty(tmp_path: Path) -> None:
    (sample,) = several(tmp_path, 1)
    pool = SamplePool(CLASSES, max_open=3)
    opened = pool.get(sample)
    assert pickle.loads(pickle.dumps(pool)).get(sample) is not opened
