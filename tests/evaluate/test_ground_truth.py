"""Which classes are judged, and in which order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.made import MadeOpener, paint, patchwork, sample_of, two_scales
from wsi_magnet.errors import ManifestError
from wsi_magnet.evaluate import ground_truth as truth
from wsi_magnet.evaluate.ground_truth import blocks, label_sets, make_target
from wsi_magnet.geometry import Size
from wsi_magnet.nets.spec import ClassInfo
from wsi_magnet.scales import Scale

CLASSES = [ClassInfo(n, v, (v, v, v)) for n, v in [("tumour", 7), ("background", 0), ("stroma", 1), ("gland", 2)]]
TUMOUR, BACKGROUND, STROMA, GLAND = (1 << i for i in range(4))


def test_classes_that_share_a_label_are_judged_as_one_in_the_order_of_their_values() -> None:
    target = make_target([BACKGROUND | STROMA, GLAND | TUMOUR, 15], CLASSES)
    assert target.names == ("background/stroma", "gland/tumour")
    assert target.part_of == (1, 0, 0, 1)
    assert target.colors == ((0, 0, 0), (2, 2, 2))


def test_a_class_in_no_label_stays_alone() -> None:
    assert make_target([BACKGROUND, STROMA | GLAND], CLASSES).names == ("background", "stroma/gland", "tumour")


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ([], "no pixel is labelled"),
        ([15, 0], "no pixel is labelled"),
        ([GLAND | TUMOUR], "one class only, gland/tumour"),
    ],
)
def test_labels_that_judge_nothing_are_refused(sets: list[int], words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        make_target(sets, CLASSES)


def test_blocks_cover_a_grid_once() -> None:
    scale = Scale(0, 1.0, (1.0, 1.0), Size(2050, 1030))
    seen = np.zeros(scale.size.hw, int)
    for box in blocks(scale):
        seen[box.slices_yx] += 1
    assert (seen == 1).all()


def test_sets_are_found_in_every_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "BLOCK_PX", 64)
    classes = np.zeros((150, 190), np.int64)
    classes[149, 189], classes[0, 0] = 2, -1
    opened = MadeOpener({"a": classes})(sample_of(paint(tmp_path / "a.png", patchwork(0))), two_scales().classes)
    assert label_sets(opened, opened.scale(0.5)) == {0b001, 0b100, 0b111}
