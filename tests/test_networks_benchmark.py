"""The table of networks, and the comparison of a network with its exported files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import forms, networks
from tests.nets.models_made import traced, written
from tests.nets.test_import_model import THREE, small
from wsi_magnet.errors import ConfigError
from wsi_magnet.nets.import_model import import_model


@pytest.fixture(autouse=True)
def own_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of trusted models that is the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def evaluation(folder: Path, low: float | None = 0.7) -> Path:
    """A file as `evaluate` writes it, as far as the table reads it."""
    found = {"value": 0.8123, "low": low, "high": None if low is None else 0.9}
    path = folder / "evaluation.json"
    path.write_text(json.dumps({"rows": [{"name": "MagNet", "measures": {"miou": found}}]}))
    return path


def test_a_name_and_a_bundle_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "mine.safetensors"
    import_model(written(tmp_path, "mine.pt", traced(small())), bundle, THREE, trusted=True)
    assert networks.main(["small", str(bundle), "--side", "64", "--glas", f"small={evaluation(tmp_path)}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [[one.strip() for one in line.strip("|").split("|")] for line in lines[2:4]]
    assert cells[0][:3] == ["small", "here", "1,316,434"]
    assert cells[0][5] == "81.2 (70.0 to 90.0)"
    assert cells[1][:2] == ["mine", "TorchScript file"]
    assert cells[1][2].startswith("≤ ")
    assert all(float(row[4]) > 0 for row in cells)
    assert int(cells[0][3].replace(",", "")) > 1000


def test_an_accuracy_without_an_interval_is_shown(tmp_path: Path) -> None:
    assert networks.read_miou(f"fpn={evaluation(tmp_path, None)}", "MagNet") == ("fpn", "81.2")


@pytest.mark.parametrize("text", ["small", "small=none.json", "={}"])
def test_what_is_no_evaluation_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        networks.read_miou(text, "MagNet")


def test_an_unknown_network_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert networks.main(["unet"]) == 1
    assert capsys.readouterr().err.startswith("error: network 'unet' is none of")


def test_the_page_has_a_place_for_the_table() -> None:
    page = networks.PAGE.read_text(encoding="utf-8")
    changed = networks.between_marks(page, ["| a \\1 |"])
    assert "| a \\1 |" in changed
    assert networks.between_marks(changed, ["| b |"]) == networks.between_marks(page, ["| b |"])
    with pytest.raises(ConfigError, match="0 places"):
        networks.between_marks("page", [])


@pytest.mark.slow
def test_exported_files_give_the_networks_labels(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra onnx)")
    assert forms.main([]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "100.0000" in line]
    assert [line.split()[1] for line in rows][:3] == ["house", "pt2", "torchscript"]
