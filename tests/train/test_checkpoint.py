"""A checkpoint: whole or not there, for its own training alone, and never code."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from wsi_magnet.errors import StoreError, TrainingError
from wsi_magnet.train.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint of the training "mine"."""
    path = tmp_path / "stage.ckpt"
    save_checkpoint(path, {"step": 3, "best": {"w": torch.arange(4.0)}}, "mine")
    return path


def test_what_is_saved_comes_back(saved: Path) -> None:
    found = load_checkpoint(saved, "mine")
    assert found is not None
    assert found["step"] == 3
    assert torch.equal(found["best"]["w"], torch.arange(4.0))


def test_where_nothing_was_saved_there_is_nothing(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none.ckpt", "mine") is None


def test_nothing_is_left_beside_it(saved: Path) -> None:
    assert [path.name for path in saved.parent.iterdir()] == ["stage.ckpt"]


def test_another_training_is_refused(saved: Path) -> None:
    with pytest.raises(TrainingError, match=r"stage\.ckpt belongs to another configuration or other data; start again"):
        load_checkpoint(saved, "yours")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def replaced_by_text(path: Path) -> None:
    path.write_text("no checkpoint")


def replaced_by_a_list(path: Path) -> None:
    torch.save([1, 2], path)


def replaced_by_a_network(path: Path) -> None:
    torch.save({"w": torch.zeros(2)}, path)


def replaced_by_code(path: Path) -> None:
    torch.save({"format": os.getcwd, "fingerprint": "mine"}, path)


@pytest.mark.parametrize(
    "damage", [cut_short, emptied, replaced_by_text, replaced_by_a_list, replaced_by_a_network, replaced_by_code]
)
def test_a_damaged_one_is_refused(saved: Path, damage: Callable[[Path], None]) -> None:
    damage(saved)
    with pytest.raises(TrainingError, match="is damaged; delete it, or start again with --restart"):
        load_checkpoint(saved, "mine")


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be read: Is a directory"):
        load_checkpoint(tmp_path, "mine")


def test_one_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"gone/stage\.ckpt: No such file"):
        save_checkpoint(tmp_path / "gone" / "stage.ckpt", {}, "mine")


def test_a_failed_write_leaves_the_old_one(saved: Path) -> None:
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        save_checkpoint(saved, {"step": lambda: 4}, "mine")  # cannot be pickled
    found = load_checkpoint(saved, "mine")
    assert found is not None
    assert found["step"] == 3
