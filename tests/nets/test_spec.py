"""A bundle's description: to JSON and back, strict, and read without torch."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.nets.made import CLASSES, networks_of, small_spec
from wsi_magnet.config import CELL_SIDES_PX
from wsi_magnet.errors import BundleError
from wsi_magnet.nets.bundle import save_bundle
from wsi_magnet.nets.spec import DEFAULT_BUNDLE, BundleSpec, ClassInfo, bundle_path, read_spec


def test_json_and_back() -> None:
    spec = small_spec()
    assert BundleSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_background_is_the_class_of_value_0() -> None:
    assert small_spec().background_index == 0
    assert small_spec(classes=CLASSES[1:]).background_index is None
    assert small_spec(classes=CLASSES[::-1]).background_index == 2


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("name", 3, "bundle.name is 3, not text"),
        ("colour", "red", "unknown field 'colour'"),
        ("halo_px", 32.5, "bundle.halo_px is 32.5, not a whole number"),
        ("halo_px", True, "bundle.halo_px is True, not a whole number"),
        ("mpps", [4, "2", 1], r"bundle.mpps\[1\] is '2', not a number"),
        ("mpps", 4, "bundle.mpps is 4, not a list"),
        ("temperature", [1, float("nan"), 1], r"bundle.temperature\[1\] is nan"),
        ("mean", [0.5, 0.5], "bundle.mean has 2 values, not 3"),
        ("network_args", {"width": [16]}, r"bundle.network_args.width is \[16\]"),
        ("card", {"licence": None}, "bundle.card.licence is None, not text"),
        ("classes", [{"name": "a", "value": 1}], r"bundle.classes\[0\]: missing field 'color'"),
    ],
)
def test_a_field_of_another_type_is_named(field: str, value: Any, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        BundleSpec.from_json({**small_spec().to_json(), field: value})


def test_a_missing_field_is_named() -> None:
    values = small_spec().to_json()
    del values["select_above"]
    with pytest.raises(BundleError, match="missing field 'select_above'"):
        BundleSpec.from_json(values)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"temperature": (1.0, 1.0)}, "temperature has 2 values, but 3 scales need 3"),
        ({"select_above": (0.1,)}, "select_above has 1 values, but 3 scales need 2"),
        ({"mpps": (4.0, 2.0, 1.5)}, "must halve"),
        ({"refiner_of": (0, 2)}, "skips a refiner"),
        ({"channel_order": "both"}, "'both' is not fine_first"),
        ({"median_px": 16}, "median_px 16 is not odd"),
        ({"classes": CLASSES[:1]}, "at least 2"),
        ({"classes": (CLASSES[0], CLASSES[0])}, "share a value"),
        ({"std": (1.0, 0.0, 1.0)}, "std .* is not positive"),
        ({"temperature": (1.0, 0.0, 1.0)}, "temperature .* is not positive"),
        ({"cell_px": 100}, "cell_px is 100, not 128, 256 or 512"),
        ({"halo_px": -32}, "halo_px -32 is not between 0 and 512"),
        ({"select_width": (0.1,)}, "select_width has 1 values, but 3 scales need 2"),
        ({"select_width": (0.1, -0.1)}, "select_width .* is negative"),
    ],
)
def test_values_that_do_not_go_together_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        small_spec(**changes)


@pytest.mark.parametrize("cell_px", CELL_SIDES_PX)
def test_the_side_of_a_cell_is_written_and_read(cell_px: int) -> None:
    values = small_spec(cell_px=cell_px).to_json()
    assert values["cell_px"] == cell_px
    assert BundleSpec.from_json(values).cell_px == cell_px


def test_a_cell_is_at_least_a_pixel_of_the_coarsest_scale() -> None:
    steps = 8
    values: dict[str, Any] = {
        "mpps": tuple(2.0 ** (steps - i) for i in range(steps + 1)),
        "refiner_of": (0,) * steps,
        "select_above": (0.1,) * steps,
        "refine_above": (0.1,) * steps,
        "temperature": (1.0,) * (steps + 1),
    }
    assert small_spec(**values, cell_px=256).cell_px == 256
    with pytest.raises(BundleError, match="cells of 128 pixels are smaller than a pixel of the coarsest of 9 scales"):
        small_spec(**values, cell_px=128)


def test_without_widths_every_selection_is_hard() -> None:
    assert [small_spec().width_of(step) for step in (0, 1)] == [0, 0]


def test_each_step_has_its_width() -> None:
    spec = BundleSpec.from_json(small_spec(select_width=(0.1, 0.4)).to_json())
    assert [spec.width_of(step) for step in (0, 1)] == [0.1, 0.4]


@pytest.mark.parametrize(("value", "color"), [(255, (0, 0, 0)), (-1, (0, 0, 0)), (1, (0, 0, 256))])
def test_a_class_has_a_label_and_a_colour_that_a_mask_can_hold(value: int, color: tuple[int, int, int]) -> None:
    with pytest.raises(BundleError, match="class 'odd'"):
        ClassInfo("odd", value, color)


def test_none_and_default_are_the_bundle_that_is_shipped() -> None:
    assert bundle_path(None) == bundle_path("default")
    assert bundle_path(None).name == f"{DEFAULT_BUNDLE}.safetensors"


def test_a_description_is_read_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_bundle(path, small_spec(), *networks_of(small_spec()))
    spec, sha256 = read_spec(path)
    assert spec == small_spec()
    code = f"""
import sys
from wsi_magnet.nets.spec import read_spec
assert read_spec({str(path)!r})[1] == {sha256!r}
assert not {{"torch", "safetensors", "numpy"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_bundle_is_hashed_once_until_its_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, path = small_spec(), tmp_path / "small.safetensors"
    save_bundle(path, spec, *networks_of(spec))
    digest, hashed = hashlib.file_digest, list[str]()

    def count(file: Any, name: str) -> Any:
        hashed.append(file.name)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", count)
    first = read_spec(path)
    assert (read_spec(str(path)), len(hashed)) == (first, 1)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert (read_spec(path), len(hashed)) == (first, 2), "touched"
    other, stat = small_spec(name=spec.name[::-1]), path.stat()
    save_bundle(tmp_path / "other.safetensors", other, *networks_of(other))
    os.utime(tmp_path / "other.safetensors", ns=(0, stat.st_mtime_ns))
    (tmp_path / "other.safetensors").replace(path)
    assert path.stat().st_size == stat.st_size
    assert read_spec(path)[0] == other, "another file of the same size and time"
    path.unlink()
    with pytest.raises(BundleError, match="No such file"):
        read_spec(path)
