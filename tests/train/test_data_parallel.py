"""Several processes train one model: they agree, and learn what one process would from the whole batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.train.made import (
    SMALL_VALIDATION_PX,
    ToyStage,
    same,
    setting_of,
    tiny_config,
    toy_config,
    trained,
    write_data,
)
from wsi_magnet.errors import ConfigError, TrainingError
from wsi_magnet.nets.bundle import load_bundle
from wsi_magnet.train import pipeline
from wsi_magnet.train import spec as training_spec
from wsi_magnet.train.data_parallel import Ranks, devices_of, forwarding_progress, run_on
from wsi_magnet.train.history import Row
from wsi_magnet.train.loop import Loop
from wsi_magnet.train.pipeline import train_bundle
from wsi_magnet.train.spec import TrainingSpec, check_spec

TWO = (torch.device("cpu"), torch.device("cpu"))


def plain_stage() -> ToyStage:
    """Without batch normalisation, which sees only its own process's part, and without dropout."""
    return ToyStage(toy_config(optimizer="sgd", clip=0.0, learning_rate=0.01), plain=True)


class Diverging(ToyStage):
    """Its loss is no number in the second process."""

    def loss(self, batch: Tensor, step: int) -> Tensor:
        """NaN at step 2."""
        return super().loss(batch, step) * (float("nan") if step == 2 else 1)


def work_together(folder: Path, ranks: Ranks, device: torch.device) -> None:
    """All that processes do together; each writes down what it has come to."""
    torch.set_num_threads(1)
    module = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.fill_(ranks.rank + 1)
    module.eval()
    decided = ranks.agree(ranks.first)
    module[0].weight.grad = torch.full((1, 2), float(ranks.rank))
    ranks.average_gradients(module.parameters())
    ranks.average_statistics(module.buffers())
    ranks.average_statistics(nn.Linear(1, 1).buffers())
    mean = module[1].running_mean.clone()  # type: ignore[operator]
    ranks.share(module.state_dict().values())
    mious = (0, 0, 0.9, 0, 0, 0.1, 0, 0.2)
    best = ToyStage(toy_config(), plain=True, mious=mious)
    found: dict[str, Any] = {
        "decided": decided,
        "gradient": module[0].weight.grad,
        "mean": mean,
        "shared": dict(module.state_dict()),
        "trained": trained(plain_stage(), setting_of(folder, ranks=ranks))[1],
        "best": trained(best, setting_of(folder, ranks=ranks, checkpoint=folder / "best.ckpt"))[1],
        "step": best.step,
    }
    torch.save(found, folder / f"{ranks.rank}.pt")
    last = ToyStage(toy_config()) if ranks.first else Diverging(toy_config())
    Loop(last, setting_of(folder, ranks=ranks, checkpoint=folder / "last.ckpt")).run()


@dataclass(frozen=True, slots=True)
class Together:
    """What two processes have come to."""

    first: dict[str, Any]
    second: dict[str, Any]
    error: str
    """That of the second in the end."""


@pytest.fixture(scope="module", params=[pytest.param("two", marks=pytest.mark.slow)])
def together(tmp_path_factory: pytest.TempPathFactory) -> Together:
    """Two processes that work together until one of them fails."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.raises(TrainingError) as caught:
        run_on(TWO, partial(work_together, folder))
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    return Together(first, second, str(caught.value))


def test_the_first_process_decides(together: Together) -> None:
    assert [one["decided"] for one in (together.first, together.second)] == [True, True]


def test_gradients_are_averaged(together: Together) -> None:
    assert [one["gradient"].tolist() for one in (together.first, together.second)] == [[[0.5, 0.5]]] * 2


def test_running_means_are_averaged(together: Together) -> None:
    assert [one["mean"].item() for one in (together.first, together.second)] == [1.5, 1.5]


def test_weights_are_shared(together: Together) -> None:
    assert [one["shared"]["0.weight"].tolist() for one in (together.first, together.second)] == [[[1, 1]]] * 2


def test_two_processes_learn_what_one_would(together: Together, tmp_path: Path) -> None:
    _, alone = trained(plain_stage(), setting_of(tmp_path))
    for key, tensor in alone.items():
        torch.testing.assert_close(together.first["trained"][key], tensor)


def test_processes_end_with_the_same_weights(together: Together) -> None:
    assert same(together.first["trained"], together.second["trained"])


def test_all_processes_end_with_the_best_weights(together: Together) -> None:
    assert same(together.first["best"], together.second["best"])


@pytest.mark.parametrize(("world", "count"), [(1, 5), (2, 6), (3, 6)])
def test_every_item_is_somebodys(world: int, count: int) -> None:
    mine = [item for rank in range(world) for item in Ranks(rank, world).mine(count)]
    assert sorted(mine) == list(range(count))


def test_one_process_is_left_alone() -> None:
    module = nn.BatchNorm1d(3)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    ranks = Ranks()
    ranks.average_gradients(module.parameters())
    ranks.average_statistics(module.buffers())
    ranks.share(module.state_dict().values())
    assert ranks.first
    assert not ranks.agree(False)
    assert same(before, module.state_dict())


def test_an_error_of_another_process_is_said_in_one_line(together: Together) -> None:
    assert together.error.startswith("toy: the loss is nan at step 2; lower learning_rate")
    assert "\n" not in together.error


def test_one_device_is_worked_on_in_this_process() -> None:
    seen: list[Any] = []
    run_on((torch.device("cpu"),), lambda ranks, device: seen.append((ranks, device)))
    assert seen == [(Ranks(), torch.device("cpu"))]


def test_what_is_told_in_one_process_is_told_at_once() -> None:
    heard: list[Any] = []
    with forwarding_progress(lambda *what: heard.append(what), processes=1) as notify:
        notify("a", 1)
        assert heard == [("a", 1)]


def test_what_is_told_to_another_process_is_heard_by_the_end() -> None:
    heard: list[Any] = []
    with forwarding_progress(lambda *what: heard.append(what), processes=2) as notify:
        notify("a", 1)
        notify("b", 2)
    assert heard == [("a", 1), ("b", 2)]


def test_a_device_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="device is 'gpu', not auto, cpu, cuda or cuda:N"):
        devices_of("gpu")


def test_the_processor_is_one_device() -> None:
    assert devices_of("cpu") == (torch.device("cpu"),)


TRAIN = pipeline._train


def train_small(*arguments: Any) -> None:
    """One process's training, with small validation views."""
    pipeline.VALIDATION_PX = SMALL_VALIDATION_PX
    TRAIN(*arguments)


@pytest.fixture
def on_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were two devices."""
    for module in (pipeline, training_spec):
        monkeypatch.setattr(module, "devices_of", lambda device: TWO)
    monkeypatch.setattr(pipeline, "_train", train_small)


@pytest.mark.slow
@pytest.mark.usefixtures("on_two")
def test_a_training_on_two_devices_with_loaders_writes_a_bundle_and_tells_how_it_goes(tmp_path: Path) -> None:
    config = tiny_config(mpps=(2.0, 1.0), backbone={"steps": 3}, refiners={"steps": 2, "batch": 2}, halo_px=8)
    heard: list[tuple[str, int]] = []

    def watch(stage: str, row: Row, steps: int) -> None:
        if row.miou is None and stage in ("backbone", "refiners"):
            heard.append((stage, row.step))

    output = tmp_path / "two.safetensors"
    train_bundle(TrainingSpec(write_data(tmp_path), config, output, threads=1, loaders=1), watch=watch)
    assert load_bundle(output).spec.name == "tiny"
    assert heard == [("backbone", 1), ("backbone", 2), ("backbone", 3), ("refiners", 1), ("refiners", 2)]


@pytest.mark.usefixtures("on_two")
def test_a_batch_that_cannot_be_parted_evenly_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"refiners\.batch 1 cannot be parted evenly among 2 devices"):
        check_spec(TrainingSpec(write_data(tmp_path), tiny_config(), tmp_path / "b.safetensors"))
