"""Exact downsample of levels, by the way in which they were made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slides_made import glass, stained, write_pyramid
from wsi_magnet.geometry import Box, Size
from wsi_magnet.slides.levels import possible_downsamples, settle_downsamples
from wsi_magnet.slides.registry import open_slide
from wsi_magnet.slides.types import Image

SIZE = Size(2003, 1501)


def made_up(full: Size, size: Size) -> float:
    """Downsample that OpenSlide computes for formats without one."""
    return (full.width / size.width + full.height / size.height) / 2


def possible(full: Size, size: Size) -> tuple[tuple[float, float], ...]:
    return possible_downsamples(full, size, made_up(full, size))


def test_a_stated_downsample_is_taken() -> None:
    assert possible_downsamples(Size(1000, 800), Size(260, 210), 4.0) == ((4.0, 4.0),)


def test_a_level_that_divides_has_one_answer() -> None:
    assert possible(Size(1000, 800), Size(250, 200)) == ((4.0, 4.0),)
    assert possible(Size(14486, 16783), Size(14486, 16783)) == ((1.0, 1.0),)


def test_a_level_that_lost_a_row_has_two() -> None:
    assert possible(Size(6001, 1201), Size(3000, 600)) == ((2.0, 2.0), (6001 / 3000, 1201 / 600))


def test_a_level_that_gained_a_row_has_two() -> None:
    assert possible(Size(14486, 16783), Size(227, 263)) == ((64.0, 64.0), (14486 / 227, 16783 / 263))


def test_a_level_of_no_whole_factor_was_resized() -> None:
    assert possible(Size(1000, 800), Size(400, 320)) == ((2.5, 2.5),)


@pytest.mark.parametrize("factors", [pytest.param((2, 4, 8), marks=pytest.mark.slow), (4, 16)], ids=str)
def test_the_pixels_decide(tmp_path: Path, factors: tuple[int, ...]) -> None:
    for stretch in (False, True):
        info = open_slide(
            write_pyramid(tmp_path / f"{stretch}.tif", stained(SIZE), factors=factors, stretch=stretch)
        ).info
        for factor, level in zip(factors, info.levels[1:], strict=True):
            resized = SIZE.width / level.size.width, SIZE.height / level.size.height
            assert level.downsample_xy == (resized if stretch else (factor, factor))


def test_on_glass_the_downsample_is_the_mean(tmp_path: Path) -> None:
    image = glass(SIZE)
    image[:] = image[:1, :1]
    level = open_slide(write_pyramid(tmp_path / "a.tif", image, factors=(4,))).info.levels[1]
    assert level.downsample_xy == ((4 + 2003 / 500) / 2, (4 + 1501 / 375) / 2)


def test_nothing_is_read_where_one_downsample_is_possible() -> None:
    def refuse(level: int, box: Box) -> tuple[Image, tuple[float, float]]:
        raise AssertionError(f"read {box} of level {level}")

    sizes = [Size(1024, 512), Size(512, 256), Size(256, 128)]
    assert settle_downsamples(sizes, [1.0, 2.0, 4.0], refuse) == ((1.0, 1.0), (2.0, 2.0), (4.0, 4.0))


@pytest.mark.parametrize(
    ("name", "downsamples"),
    [
        ("slides/BS9_HE2.tif", [(4.0, 4.0), (16.0, 16.0), (64.0, 64.0)]),
        ("slides/tiff_with_asap_xml/example.tif", [(2.0, 2.0), (4.0, 4.0)]),
        (
            "gleason_strip/stripA_test100-104_assumed-mpp0.5.tif",
            [(6001 / width, 1201 / height) for width, height in ((3000, 600), (1500, 300), (750, 150))],
        ),
        ("rings_mosaics/P1_D5_3_12_tiles4-5-6_no-mpp.tif", [(2625 / n, 2625 / n) for n in (1312, 656)]),
    ],
)
def test_real_slides_of_both_kinds(test_data: Path, name: str, downsamples: list[tuple[float, float]]) -> None:
    """The truth was measured independently of this package, by phase correlation of each level with the next."""
    assert [level.downsample_xy for level in open_slide(test_data / name).info.levels[1:]] == downsamples
