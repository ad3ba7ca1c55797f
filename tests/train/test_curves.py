"""The picture of a training can be drawn of any history, and is the same each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from wsi_magnet.train.curves import draw_curves
from wsi_magnet.train.history import History, Row


def history(steps: int, look_every: int = 3) -> History:
    return History([Row(i, 1 / i, 0.01, 0.5 if i % look_every == 0 else None, 0.1) for i in range(1, steps + 1)])


@pytest.mark.parametrize("steps", [1, 2, 60])
def test_a_stage_of_any_length_is_drawn(tmp_path: Path, steps: int) -> None:
    draw_curves({"backbone": history(steps)}, tmp_path / "c.png")
    assert len(np.unique(np.asarray(Pillow.open(tmp_path / "c.png").convert("RGB")).reshape(-1, 3), axis=0)) > 10


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
