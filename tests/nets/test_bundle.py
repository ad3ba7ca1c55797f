"""Bundles: saved ones come back, other files are refused in one line, none is half written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.nets.made import networks_of, small_spec
from wsi_magnet.errors import BundleError
from wsi_magnet.nets.bundle import load_bundle, save_bundle
from wsi_magnet.nets.spec import BundleIdentity, BundleSpec, bundle_identity, edit_bundle, read_spec


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sound bundle."""
    path = tmp_path / "tiny.safetensors"
    save_bundle(path, small_spec(), *networks_of(small_spec()))
    return path


def test_what_is_saved_comes_back(path: Path) -> None:
    backbone, refiners = networks_of(small_spec())
    bundle = load_bundle(path)
    assert bundle.spec == small_spec()
    assert bundle.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(bundle.refiners) == 2
    for saved, loaded in zip([backbone, *refiners], [bundle.backbone, *bundle.refiners], strict=True):
        assert saved.state_dict().keys() == loaded.state_dict().keys()
        for key, tensor in saved.state_dict().items():
            assert torch.equal(tensor, loaded.state_dict()[key])


def test_networks_are_in_evaluation_mode(path: Path) -> None:
    bundle = load_bundle(path)
    for module in (bundle.backbone, *bundle.refiners):
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())


def test_the_channel_order_reaches_the_refiners(tmp_path: Path) -> None:
    spec = small_spec(channel_order="coarse_first")
    save_bundle(tmp_path / "b.safetensors", spec, *networks_of(spec))
    assert [r.channel_order for r in load_bundle(tmp_path / "b.safetensors").refiners] == ["coarse_first"] * 2


def test_the_same_weights_give_the_same_bytes(path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    bundle = load_bundle(path)
    save_bundle(again, bundle.spec, bundle.backbone, bundle.refiners)
    assert again.read_bytes() == path.read_bytes()


def test_the_safetensors_library_reads_it_too(path: Path) -> None:
    tensors = safetensors.torch.load_file(path)
    assert {key.split(".")[0] for key in tensors} == {"backbone", "refiner"}
    assert {".".join(key.split(".")[:2]) for key in tensors if key.startswith("refiner")} == {"refiner.0", "refiner.1"}


def test_networks_without_weights_make_a_bundle(tmp_path: Path) -> None:
    spec = small_spec(network="identity", network_args={"gain": 4.0}, refiner="identity")
    save_bundle(tmp_path / "free.safetensors", spec, *networks_of(spec))
    bundle = load_bundle(tmp_path / "free.safetensors")
    image = torch.rand(1, 3, 4, 4)
    assert torch.equal(bundle.backbone(image), image * 4)
    assert bundle.device.type == "cpu"


def test_networks_of_another_description_are_not_saved(tmp_path: Path) -> None:
    networks = networks_of(small_spec())
    with pytest.raises(BundleError, match="do not fit the description"):
        save_bundle(tmp_path / "b.safetensors", small_spec(network_args={"width": 4}), *networks)
    assert not list(tmp_path.iterdir())


def test_a_bundle_is_written_whole_or_not_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(BundleError, match="No space left on device"):
        save_bundle(path, small_spec(), *networks_of(small_spec(), seed=1))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def rewrite(path: Path, change: Callable[[dict[str, str]], object]) -> None:
    """The bundle with other metadata."""
    with safetensors.safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    change(metadata)
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, metadata)


def one_line(path: Path) -> str:
    with pytest.raises(BundleError) as raised:
        load_bundle(path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)
    return str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "No such file" in one_line(tmp_path / "none.safetensors")


def test_a_folder_is_no_bundle(tmp_path: Path) -> None:
    assert "Is a directory" in one_line(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"short", b"some text that is long enough to have a first word" * 9, b"\x08" + b"\0" * 7 + b"[1, 2,3]"],
)
def test_other_files_are_no_bundles(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    assert "is not a wsi-magnet bundle; make one from .pth checkpoints" in one_line(path)


def test_a_checkpoint_is_no_bundle(tmp_path: Path) -> None:
    path = tmp_path / "backbone.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    assert "is not a wsi-magnet bundle" in one_line(path)


def test_other_safetensors_are_no_bundles(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(3)}, path)
    assert "is not a wsi-magnet bundle" in one_line(path)


def test_a_bundle_of_a_later_version_says_so(path: Path) -> None:
    rewrite(path, lambda metadata: metadata.update(version="2"))
    assert "version 2" in one_line(path)


def test_a_description_that_cannot_be_used_names_its_field(path: Path) -> None:
    rewrite(path, lambda metadata: metadata.update(spec=json.dumps({**small_spec().to_json(), "mpps": "fine"})))
    assert "bundle.mpps is 'fine'" in one_line(path)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_bundle_is_damaged(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    message = one_line(path)
    assert "is cut off" in message or "is not a wsi-magnet bundle" in message


def alter(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """The bundle with other tensors."""
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path, metadata)


SEG = "refiner.1.seg_conv.weight"


def test_a_missing_tensor_is_named(path: Path) -> None:
    alter(path, lambda tensors: tensors.pop(SEG))
    assert "refiner.1 does not fit: 1 of 60 tensors missing, the first 'seg_conv.weight'" in one_line(path)


def test_a_tensor_too_many_is_named(path: Path) -> None:
    alter(path, lambda tensors: tensors.update({"refiner.2.seg_conv.weight": torch.zeros(3)}))
    assert "1 tensors unexpected, the first 'refiner.2.seg_conv.weight'" in one_line(path)


def test_a_tensor_of_another_shape_is_named(path: Path) -> None:
    alter(path, lambda tensors: tensors.update({SEG: torch.zeros(4, 128, 1, 1)}))
    assert "'seg_conv.weight' is [4, 128, 1, 1], not [3, 128, 1, 1]" in one_line(path)


def test_weights_that_are_no_numbers_are_refused(path: Path) -> None:
    alter(path, lambda tensors: tensors[SEG].fill_(float("nan")))
    assert "'seg_conv.weight' holds NaN" in one_line(path)


def test_half_precision_weights_are_used_as_float32(path: Path) -> None:
    alter(path, lambda tensors: tensors.update({SEG: tensors[SEG].half()}))
    assert {p.dtype for p in load_bundle(path).refiners[1].parameters()} == {torch.float32}


def test_classes_and_weights_of_different_number_do_not_fit(path: Path) -> None:
    wrong = small_spec(classes=small_spec().classes[:2]).to_json()
    rewrite(path, lambda metadata: metadata.update(spec=json.dumps(wrong)))
    assert "is [3], not [2]" in one_line(path)
    assert isinstance(read_spec(path)[0], BundleSpec)


def test_a_bundle_is_one_line() -> None:
    assert repr(load_bundle()).startswith("<Bundle prostate-glands: ")
    assert " µm/px; " in repr(load_bundle())


def test_an_edited_bundle_has_the_same_weights_and_identity(path: Path, tmp_path: Path) -> None:
    spec, sha256 = read_spec(path)
    classes = tuple(replace(one, name=one.name.upper(), color=(1, 2, 3)) for one in spec.classes)
    edited, again = tmp_path / "edited.safetensors", tmp_path / "again.safetensors"
    edit_bundle(path, edited, replace(spec, name="other", classes=classes, card={"by": "me"}))
    edit_bundle(edited, again, replace(spec, name="third"))
    before, after = load_bundle(path), load_bundle(edited)
    assert (after.spec.name, after.spec.classes, after.spec.card) == ("other", classes, {"by": "me"})
    for one, other in zip([before.backbone, *before.refiners], [after.backbone, *after.refiners], strict=True):
        for key, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[key])
    own = BundleIdentity(spec.name, sha256)
    assert [bundle_identity(one) for one in (path, edited, again)] == [own] * 3
    assert read_spec(edited)[1] != sha256


def test_only_names_and_colours_can_be_edited(path: Path, tmp_path: Path) -> None:
    spec, _ = read_spec(path)
    values = tuple(replace(one, value=one.value + 10) for one in spec.classes)
    for other in (replace(spec, classes=values), replace(spec, halo_px=64), replace(spec, classes=spec.classes[::-1])):
        with pytest.raises(BundleError, match="can be changed"):
            edit_bundle(path, tmp_path / "edited.safetensors", other)
    assert not (tmp_path / "edited.safetensors").exists()


def test_a_bundle_that_is_cut_off_is_refused_before_its_tensors_are_read(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BundleError, match="its last 10 bytes are missing"):
        read_spec(path)


def test_a_damaged_origin_is_refused(path: Path) -> None:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["origin"] = "{}"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(BundleError, match="names no usable origin"):
        bundle_identity(path)
