"""Pictures of a page: one grid for all, of a bounded size, with the slide where it is there."""

from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.export.results import damage, make_result
from tests.runs import labels_of, local
from wsi_magnet.errors import SlideReadError
from wsi_magnet.geometry import Box, Size
from wsi_magnet.report.overlay import UNREADABLE, tissue_at
from wsi_magnet.report.pictures import take_pictures
from wsi_magnet.results.reader import Result
from wsi_magnet.slides.read import read_scale
from wsi_magnet.slides.registry import open_slide


def pixels(picture: bytes | None) -> npt.NDArray[np.uint8]:
    assert picture is not None
    with Image.open(io.BytesIO(picture)) as opened:
        return np.asarray(opened)


def test_small_masks_are_shown_pixel_for_pixel(graded: Path) -> None:
    found = pixels(take_pictures(Result(graded), 2000).labels)
    assert np.array_equal(found, labels_of(graded)[: found.shape[0], : found.shape[1]])


@pytest.mark.parametrize("longest_px", [200, 333, 500])
def test_all_pictures_have_one_size_that_is_bounded(graded: Path, longest_px: int) -> None:
    taken = take_pictures(Result(graded), longest_px)
    sizes = {pixels(p).shape[:2] for p in (taken.slide, taken.labels, taken.uncertainty)}
    assert sizes == {taken.size.hw}
    assert max(taken.size.wh) == pytest.approx(longest_px, abs=1)


def test_every_pixel_shows_the_label_under_its_centre(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mask = rng.integers(1, 5, (600, 450), np.uint8)
    source = make_result(tmp_path / "r", mask)
    taken = take_pictures(source, 400)
    found = pixels(taken.labels)
    ys, xs = (((np.arange(n) + 0.5) * taken.mpp).astype(int) for n in found.shape)
    assert np.array_equal(found, mask[np.ix_(ys, xs)])


def test_the_slide_lies_under_its_mask(graded: Path) -> None:
    taken = take_pictures(Result(graded), 300)
    dark = pixels(taken.slide).mean(axis=2) < 200
    assert (pixels(taken.labels)[dark] > 0).mean() > 0.95


def test_a_slide_that_is_gone_leaves_its_mask(tmp_path: Path) -> None:
    taken = take_pictures(make_result(tmp_path / "r", np.full((64, 64), 3, np.uint8)), 500)
    assert taken.slide is None
    assert "slide.svs" in taken.why_no_slide
    assert pixels(taken.paper).shape == (64, 64, 3)


def test_another_slide_is_not_shown(graded: Path, small_svs: Path, demo_slide: Path, tmp_path: Path) -> None:
    source = make_result(tmp_path / "r", np.full((64, 64), 3, np.uint8))
    damage(local(source.folder), slide={**source.record.to_json()["slide"], "path": str(small_svs)})
    assert "no longer the slide" in take_pictures(Result(source.folder), 500).why_no_slide


def test_what_the_slide_does_not_give_is_grey_and_the_rest_is_there(
    small_svs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Box(150, 150, 151, 151)

    def torn(reader: Any, scale: Any, box: Box) -> Any:
        if not box.intersect(broken).empty:
            raise SlideReadError("torn")
        return read_scale(reader, scale, box)

    with closing(open_slide(str(small_svs))) as reader:
        whole = tissue_at(reader, Size(277, 370), 4.0)
        monkeypatch.setattr("wsi_magnet.slides.read.read_scale", torn)
        part = tissue_at(reader, Size(277, 370), 4.0)
    assert np.all(part[150, 150] == UNREADABLE)
    changed = np.argwhere(np.abs(part.astype(int) - whole).max(axis=2) > 2)
    assert np.all(np.ptp(changed, axis=0) < 64)
