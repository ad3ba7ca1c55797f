"""STAPLE: agreement stays, the odd one out is overruled, and what cannot be decided is not labelled."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsi_magnet.dataset.staple import Labels, staple, write_staple
from wsi_magnet.errors import AnnotationError, ConfigError


def quarters(*values: int) -> Labels:
    """A map of 16 x 16 pixels with a value in each quarter."""
    return np.kron(np.array(values).reshape(2, 2), np.ones((8, 8), int)).astype(np.uint8)


TRUTH = quarters(0, 1, 3, 4)


def test_what_all_agree_on_is_kept_without_any_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    assert np.array_equal(staple([TRUTH] * 3), TRUTH)


def test_the_odd_one_out_is_overruled() -> None:
    pytest.importorskip("SimpleITK")
    odd = TRUTH.copy()
    odd[:4] = 5
    assert np.array_equal(staple([TRUTH, odd, TRUTH]), TRUTH)


def test_what_two_cannot_decide_is_not_labelled() -> None:
    pytest.importorskip("SimpleITK")
    one, other = quarters(1, 1, 3, 4), quarters(1, 1, 4, 3)
    assert np.array_equal(staple([one, other]), quarters(1, 1, 255, 255))


def test_without_the_library_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[staple\]'"):
        staple([TRUTH, TRUTH + np.uint8(1)])


def test_maps_of_different_sizes_are_refused() -> None:
    with pytest.raises(AnnotationError, match="8 x 16 and 16 x 16 pixels"):
        staple([TRUTH, TRUTH[:, :8]])


def test_values_of_one_meaning_are_one_vote(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 6)):
        Image.fromarray(quarters(0, value, 3, 4)).save(tmp_path / f"{name}.png")
    write_staple([tmp_path / "a.png", tmp_path / "b.png"], "0=ignore; 1=0|1|2; 6=0|1|2", tmp_path / "out" / "c.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "c.png")), TRUTH)


def test_a_mask_is_made_again_only_where_its_inputs_changed(tmp_path: Path) -> None:
    inputs, target = [tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "c.png"
    for path in inputs:
        Image.fromarray(TRUTH).save(path)
    write_staple(inputs, "", target)
    first = target.stat().st_ino
    write_staple(inputs, "", target)
    assert target.stat().st_ino == first
    for path in inputs:
        Image.fromarray(TRUTH[::-1]).save(path)
    write_staple(inputs, "", target)
    assert np.array_equal(np.asarray(Image.open(target)), TRUTH[::-1])


def test_a_damaged_mask_is_made_again(tmp_path: Path) -> None:
    Image.fromarray(TRUTH).save(tmp_path / "a.png")
    write_staple([tmp_path / "a.png"] * 2, "", tmp_path / "c.png")
    whole = (tmp_path / "c.png").read_bytes()
    (tmp_path / "c.png").write_bytes(whole[:-30])
    write_staple([tmp_path / "a.png"] * 2, "", tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes() == whole


def test_colours_and_rubbish_are_refused_by_name(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (200, 10, 30)).save(tmp_path / "colours.png")
    (tmp_path / "rubbish.png").write_bytes(b"\x89PNG rubbish")
    for name in ("colours.png", "rubbish.png", "none.png"):
        with pytest.raises(AnnotationError, match=name):
            write_staple([tmp_path / name], "", tmp_path / "c.png")
