"""The picture of a training can be drawn of any history, and is the same each time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.few import slow_except
from wsi_magnet.train.history import History, Row, _smooth, draw_curves


def history(steps: int, look_every: int = 3) -> History:
    return History([Row(i, 1 / i, 0.01, 0.5 if i % look_every == 0 else None, 0.1) for i in range(1, steps + 1)])


@pytest.mark.parametrize("steps", slow_except([2], [1, 2, 60]))
def test_a_stage_of_any_length_is_drawn(tmp_path: Path, steps: int) -> None:
    draw_curves({"backbone": history(steps)}, tmp_path / "c.png")
    assert len(np.unique(np.asarray(Pillow.open(tmp_path / "c.png").convert("RGB")).reshape(-1, 3), axis=0)) > 10


def test_steps_that_are_too_early_to_be_kept_are_shaded(tmp_path: Path) -> None:
    greys = []
    for kept_from in (0, 5, 9):
        draw_curves({"backbone": replace(history(12), kept_from=kept_from)}, tmp_path / "c.png")
        pixels = np.asarray(Pillow.open(tmp_path / "c.png").convert("RGB"))
        greys.append(int((pixels == 0xE8).all(axis=2).sum()))
    assert greys[1] > 10_000
    assert greys[2] == pytest.approx(greys[1] * 9 / 5, rel=0.1)
    assert greys[0] < 1000


@pytest.mark.parametrize("steps", [1, 2, 5, 24, 60, 400])
def test_the_smooth_line_has_points_in_a_stage_of_any_length(steps: int) -> None:
    at, values = _smooth(np.arange(1.0, steps + 1), np.arange(1.0, steps + 1))
    assert len(at) >= 2 * steps / 3
    assert at == pytest.approx(values)


def test_two_stages_stand_side_by_side(tmp_path: Path) -> None:
    draw_curves({"one": history(9)}, tmp_path / "one.png")
    draw_curves({"one": history(9), "two": history(6), "empty": History()}, tmp_path / "two.png")
    one, two = (Pillow.open(tmp_path / f"{name}.png").size for name in ("one", "two"))
    assert two == (2 * one[0], one[1])


def test_a_training_without_steps_is_a_picture_all_the_same(tmp_path: Path) -> None:
    draw_curves({}, tmp_path / "c.png")
    assert Pillow.open(tmp_path / "c.png").width > 0


def test_the_same_history_is_the_same_picture(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_curves({"backbone": history(12)}, tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
