"""A tiny annotated data set, and a training on it that takes a second or two."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image as Pillow
from torch import Tensor, nn

from wsi_magnet.dataset.sample import SPLITS
from wsi_magnet.nets.bundle import Bundle
from wsi_magnet.slides.types import Image
from wsi_magnet.train import pipeline
from wsi_magnet.train.config import (
    AugmentConfig,
    BackboneConfig,
    ClassConfig,
    RefinerConfig,
    StageConfig,
    TrainingConfig,
)
from wsi_magnet.train.data_parallel import Ranks
from wsi_magnet.train.history import History, Row
from wsi_magnet.train.loop import Loop, Setting
from wsi_magnet.train.profile import RowSurvey, survey_rows

SIDE_PX = 160
TISSUE_RGB, GLAND_RGB = (225, 200, 228), (196, 96, 150)
ROWS = (("a", "train"), ("a", "train"), ("b", "train"), ("b", "train"), ("c", "validation"), ("d", "test"))
"""Group and split of each image."""

SMALL_VALIDATION_PX = 64
"""What tests put in place of `making.VALIDATION_PX`: a view takes milliseconds then."""


def glands(seed: int, side_px: int = SIDE_PX) -> tuple[Image, npt.NDArray[np.uint8]]:
    """Pink discs on pale purple, uint8 (side, side, 3), and 1 where they are, uint8 (side, side)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side_px, 0:side_px]
    mask = np.zeros((side_px, side_px), np.uint8)
    for centre_y, centre_x in rng.uniform(0, side_px, (5, 2)):
        mask[(y - centre_y) ** 2 + (x - centre_x) ** 2 < 24**2] = 1
    image = np.where(mask[..., None] == 1, GLAND_RGB, TISSUE_RGB) + rng.normal(0, 6, (*mask.shape, 3))
    return np.clip(image, 0, 255).astype(np.uint8), mask


def write_rows(folder: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """A manifest of these rows, by column; all have the same ones."""
    lines = [",".join(rows[0]), *(",".join(str(cell) for cell in row.values()) for row in rows)]
    path = folder / "manifest.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


SURVEYED_PX = 64
"""Side of the window that `quick_survey` segments of an image, and of its cell, instead of 2048 and 512."""


@contextmanager
def quick_training() -> Iterator[None]:
    """Context in which a training has validation views of 64 pixels instead of 512, a quick survey, and no picture.

    Drawing takes longer than such a training; see `test_curves`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "VALIDATION_PX", SMALL_VALIDATION_PX)
        patch.setattr(pipeline, "draw_curves", lambda histories, path: None)
        patch.setattr(pipeline, "survey_rows", quick_survey)
        yield


def quick_survey(bundle: Bundle, *arguments: Any, **options: Any) -> list[RowSurvey]:
    """`survey_rows` of one small cell of one image a split: images of this suite have 160 pixels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsi_magnet.nets.spec.CELL_SIDES_PX", (SURVEYED_PX,))
        patch.setattr("wsi_magnet.train.profile.WINDOW_PX", SURVEYED_PX)
        patch.setattr("wsi_magnet.train.profile.MOST_ROWS", dict.fromkeys(SPLITS, 1))
        return survey_rows(replace(bundle, spec=replace(bundle.spec, cell_px=SURVEYED_PX)), *arguments, **options)


def write_data(folder: Path, rows: Sequence[tuple[str, str]] = ROWS, **cells: object) -> Path:
    """Images, masks and their manifest; cells: further columns, the same in every row."""
    found = []
    for i, (group, split) in enumerate(rows):
        image, mask = glands(i)
        Pillow.fromarray(image).save(folder / f"image_{i}.png")
        Pillow.fromarray(mask).save(folder / f"mask_{i}.png")
        names = {"image": f"image_{i}.png", "annotation": f"mask_{i}.png"}
        found.append({**names, "mpp": 1.0, "group": group, "split": split, **cells})
    return write_rows(folder, found)


def tiny_config(
    *, backbone: Mapping[str, Any] | None = None, refiners: Mapping[str, Any] | None = None, **changes: Any
) -> TrainingConfig:
    """Glands at three scales, a network of width 2, a handful of steps; what is given is changed."""
    first: dict[str, Any] = {"network": "small", "network_args": {"width": 2}, "crop_px": 64}
    first |= {"steps": 6, "batch": 2, "learning_rate": 0.02, "validate_every": 2, "checkpoint_every": 2}
    second: dict[str, Any] = {"window_px": 64, "crops": 2, "crop_px": 24}
    second |= {"steps": 4, "batch": 1, "learning_rate": 0.01, "validate_every": 2, "checkpoint_every": 2}
    values: dict[str, Any] = {
        "name": "tiny",
        "mpps": (4.0, 2.0, 1.0),
        "classes": (ClassConfig("background"), ClassConfig("gland")),
        "augment": AugmentConfig(),
        "validation_views": 2,
        "seed": 3,
        "median_px": 3,
        "precision": "fp32",
        **changes,
    }
    return TrainingConfig(
        backbone=BackboneConfig(**{**first, **(backbone or {})}),
        refiners=RefinerConfig(**{**second, **(refiners or {})}),
        **values,
    )


def write_config(path: Path, config: TrainingConfig) -> Path:
    """As YAML, of which JSON is a part."""
    path.write_text(json.dumps(config.to_json()), encoding="utf-8")
    return path


class ToyStage:
    """A `loop.Stage` of no pictures: four numbers are to be added up, by a network with all that has a state."""

    name = "toy"

    def __init__(self, config: StageConfig, *, plain: bool = False, mious: Sequence[float] = ()) -> None:
        """plain: without batch normalisation and dropout. mious: by step, instead of what the network is worth."""
        torch.manual_seed(0)
        between = [] if plain else [nn.BatchNorm1d(8), nn.Dropout(0.3)]
        self.learned: nn.Module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), *between, nn.Linear(8, 1))
        self.config = config
        self._mious = mious
        self.step = 0
        self.drawn: list[int] = []

    def draw(self, step: int, mine: range) -> Tensor:
        """Float (N, 4)."""
        self.drawn.append(step)
        rows = [np.random.default_rng([step, i]).normal(size=4) for i in mine]
        return torch.tensor(np.array(rows), dtype=torch.float32)

    def loss(self, batch: Tensor, step: int) -> Tensor:
        """Squared difference from the sum."""
        self.step = step + 1
        difference: Tensor = self.learned(batch) - batch.sum(dim=1, keepdim=True)
        return difference.square().mean()

    def validate(self) -> float:
        """Closer to 1 the better the sums of some other numbers are."""
        if self._mious:
            return self._mious[self.step - 1]
        batch = torch.tensor(np.random.default_rng(99).normal(size=(16, 4)), dtype=torch.float32)
        return 1 / (1 + float((self.learned(batch) - batch.sum(dim=1, keepdim=True)).abs().mean()))


def toy_config(**changes: Any) -> StageConfig:
    """Eight steps, a look at every third."""
    values: dict[str, Any] = {"steps": 8, "batch": 4, "learning_rate": 0.05, "validate_every": 3, "checkpoint_every": 2}
    return StageConfig(**{**values, **changes})


def nobody(stage: str, row: Row, steps: int) -> None:
    """Told, and says nothing."""


def setting_of(folder: Path, **changes: Any) -> Setting:
    """On the CPU, alone, with its checkpoint in a folder."""
    values: dict[str, Any] = {
        "ranks": Ranks(),
        "device": torch.device("cpu"),
        "precision": "fp32",
        "seed": 5,
        "checkpoint": folder / "toy.ckpt",
        "fingerprint": "toy",
        "notify": nobody,
    }
    return Setting(**{**values, **changes})


def trained(stage: ToyStage, setting: Setting) -> tuple[History, dict[str, Tensor]]:
    """The history and the weights after a whole stage."""
    history = Loop(stage, setting).run()
    return history, stage.learned.state_dict()


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """True where all tensors are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class Stopped(Exception):
    """A training is stopped here."""


def stopping_at(stage: str, step: int) -> Callable[[str, Row, int], None]:
    """A watcher that stops the training at a step."""

    def notify(name: str, row: Row, steps: int) -> None:
        if name == stage and row.step == step:
            raise Stopped

    return notify
