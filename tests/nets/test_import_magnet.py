"""Published checkpoints become bundles; what does not fit is refused in one line and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from wsi_magnet.errors import BundleError, ConfigError, StoreError
from wsi_magnet.nets.bundle import load_bundle
from wsi_magnet.nets.checkpoint import read_checkpoint, strip_prefixes
from wsi_magnet.nets.import_magnet import import_magnet
from wsi_magnet.nets.registry import build_network, build_refiner

N_CLASSES = 4


def refiner_state(n_classes: int = N_CLASSES, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return build_refiner("magnet", n_classes).state_dict()


@pytest.fixture(scope="module")
def backbone_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build_network("hrnet18+ocr", N_CLASSES).state_dict()


@pytest.fixture(scope="module")
def backbone(backbone_state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Backbone as saved by the trainer: prefixed, with its loss."""
    path = tmp_path_factory.mktemp("checkpoints") / "hrnet.pth"
    prefixed = {f"model.{key}": tensor for key, tensor in backbone_state.items()}
    torch.save({**prefixed, "loss.criterion.weight": torch.ones(N_CLASSES)}, path)
    return path


@pytest.fixture
def refiner(tmp_path: Path) -> Path:
    path = tmp_path / "refiner.pth"
    torch.save(refiner_state(), path)
    return path


def test_all_tensors_come_through(
    backbone: Path, backbone_state: dict[str, Tensor], refiner: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out" / "x.safetensors"
    spec = import_magnet("hrnet18+ocr", backbone, [refiner], output)
    bundle = load_bundle(output)
    assert bundle.spec == spec
    for module, state, count in ((bundle.backbone, backbone_state, 924), (bundle.refiners[0], refiner_state(), 60)):
        assert len(module.state_dict()) == count
        assert all(torch.equal(tensor, state[key]) for key, tensor in module.state_dict().items())


def test_one_refiner_serves_every_step(backbone: Path, refiner: Path, tmp_path: Path) -> None:
    spec = import_magnet("hrnet18+ocr", backbone, [refiner], tmp_path / "x.safetensors")
    assert spec.mpps == (2, 1, 0.5, 0.25)
    assert spec.refiner_of == (0, 0, 0)
    assert spec.channel_order == "fine_first"
    assert [(c.name, c.value) for c in spec.classes] == [(f"class {i}", i) for i in (1, 2, 3, 4)]
    assert len({c.color for c in spec.classes}) == N_CLASSES


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_refiners_serve_a_step_each(backbone: Path, tmp_path: Path, count: int) -> None:
    paths = [tmp_path / f"r{i}.pth" for i in range(count)]
    for seed, path in enumerate(paths):
        torch.save(refiner_state(seed=seed), path)
    spec = import_magnet("hrnet18+ocr", backbone, paths, tmp_path / "x.safetensors")
    assert spec.mpps == tuple(2 / 2**i for i in range(count + 1))
    assert spec.refiner_of == tuple(range(count))
    loaded = load_bundle(tmp_path / "x.safetensors").refiners
    for seed, module in enumerate(loaded):
        assert torch.equal(module.state_dict()["conv1.weight"], refiner_state(seed=seed)["conv1.weight"])


def test_scales_and_class_names_are_taken(backbone: Path, refiner: Path, tmp_path: Path) -> None:
    spec = import_magnet(
        "hrnet18+ocr",
        backbone,
        [refiner],
        tmp_path / "x.safetensors",
        mpps=[8, 4],
        class_names=["background", "Gleason 4", "nerve", "benign gland"],
        cell_px=128,
    )
    assert spec.mpps == (8, 4)
    assert spec.cell_px == 128
    assert [c.value for c in spec.classes] == [0, 4, 6, 2]
    assert spec.background_index == 0


@pytest.mark.slow
def test_a_fpn_is_imported_too(refiner: Path, tmp_path: Path) -> None:
    state = build_network("fpn", N_CLASSES).state_dict()
    torch.save({f"module.model.{key}": tensor for key, tensor in state.items()}, tmp_path / "fpn.pth")
    import_magnet("fpn", tmp_path / "fpn.pth", [refiner], tmp_path / "x.safetensors")
    loaded = load_bundle(tmp_path / "x.safetensors").backbone.state_dict()
    assert loaded.keys() == state.keys()


def test_prefixes_are_stripped_at_the_front_only() -> None:
    names = [
        "module.model.a",
        "model.b",
        "module.c",
        "d.model.module.e",
        "modules.f",
        "module.loss.g",
        "loss.h",
        "closs.i",
    ]
    stripped = strip_prefixes({name: torch.zeros(1) for name in names})
    assert list(stripped) == ["a", "b", "c", "d.model.module.e", "modules.f", "closs.i"]


def test_a_trainers_checkpoint_holds_the_state_dict_in_one_of_its_fields(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {"model.a": torch.ones(2)}}, tmp_path / "c.pth")
    assert list(read_checkpoint(tmp_path / "c.pth")) == ["a"]


def refusal(network: str, backbone: Path, refiners: list[Path], output: Path, **arguments: Any) -> str:
    with pytest.raises((BundleError, ConfigError)) as raised:
        import_magnet(network, backbone, refiners, output, **arguments)
    assert "\n" not in str(raised.value)
    assert not output.exists()
    return str(raised.value)


def test_a_bundle_that_exists_is_replaced_on_request_only(refiner: Path, tmp_path: Path) -> None:
    output, none = tmp_path / "x.safetensors", tmp_path / "none.pth"
    output.write_text("mine")
    with pytest.raises(StoreError, match="replace it with --overwrite"):
        import_magnet("hrnet18+ocr", none, [refiner], output)
    with pytest.raises(BundleError, match="No such file"):
        import_magnet("hrnet18+ocr", none, [refiner], output, overwrite=True)
    assert output.read_text() == "mine"


def test_a_missing_file_is_named(backbone: Path, refiner: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.safetensors"
    assert "none.pth: No such file" in refusal("hrnet18+ocr", tmp_path / "none.pth", [refiner], output)
    assert "none.pth: No such file" in refusal("hrnet18+ocr", backbone, [tmp_path / "none.pth"], output)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, legacy: bool, share: float) -> None:
    path = tmp_path / "cut.pth"
    torch.save(refiner_state(), path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(BundleError, match=r"cut\.pth is not a PyTorch checkpoint, or is truncated"):
        read_checkpoint(path)


class Harmful:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm"),)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Harmful()}, tmp_path / "harmful.pth")
    with pytest.raises(BundleError, match="contains code, not only tensors"):
        read_checkpoint(tmp_path / "harmful.pth")
    assert not Path("harm").exists()


@pytest.mark.parametrize("content", [b"not a checkpoint, but text\n" * 20, bytes(range(256)) * 10])
def test_other_files_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.pth").write_bytes(content)
    with pytest.raises(BundleError, match="is not a PyTorch checkpoint"):
        read_checkpoint(tmp_path / "r.pth")


@pytest.mark.parametrize("content", [{}, [torch.zeros(1)], {"epoch": 3}, torch.zeros(2)])
def test_other_contents_are_no_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "r.pth")
    with pytest.raises(BundleError, match=r"r\.pth"):
        read_checkpoint(tmp_path / "r.pth")


def test_another_architecture_is_recognised_by_its_tensors(backbone: Path, refiner: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.safetensors"
    message = refusal("fpn", backbone, [refiner], output)
    assert "hrnet.pth as fpn does not fit: 344 of 344 tensors missing, the first 'classify.bias'" in message
    assert "924 tensors unexpected, the first 'aux_head.0.bias'" in message
    assert "as refiner does not fit" in refusal("hrnet18+ocr", backbone, [backbone], output)


def test_backbone_and_refiner_have_the_same_classes(backbone: Path, tmp_path: Path) -> None:
    torch.save(refiner_state(n_classes=7), tmp_path / "r7.pth")
    message = refusal("hrnet18+ocr", backbone, [tmp_path / "r7.pth"], tmp_path / "x.safetensors")
    assert "r7.pth refines 7 classes" in message
    assert "has 4" in message


@pytest.mark.parametrize(
    ("refiners", "arguments", "said"),
    [
        (0, {}, "no refiner"),
        (2, {"mpps": [4, 2, 1, 0.5]}, "2 refiners for 4 scales; give 1 or 3"),
        (1, {"mpps": [4]}, "1 scale"),
        (1, {"mpps": [4, 3]}, "must halve"),
        (1, {"class_names": ["a", "b"]}, "2 class names for 4 classes"),
        (1, {"class_names": ["a", "b", "c", "A "]}, "must not be empty or repeated"),
        (1, {"class_names": ["a", "b", "benign gland", "benign epithelium"]}, "same label"),
    ],
)
def test_contradictory_arguments_are_refused(
    backbone: Path, refiner: Path, tmp_path: Path, refiners: int, arguments: dict[str, Any], said: str
) -> None:
    assert said in refusal("hrnet18+ocr", backbone, [refiner] * refiners, tmp_path / "x.safetensors", **arguments)


def test_an_unknown_network_is_named(backbone: Path, refiner: Path, tmp_path: Path) -> None:
    assert "'small'" in refusal("small", backbone, [refiner], tmp_path / "x.safetensors")
