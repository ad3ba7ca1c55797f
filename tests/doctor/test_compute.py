"""torch and GPUs, with a faked CUDA."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.runs import MadeRun
from wsi_magnet.config import Execution
from wsi_magnet.doctor import compute
from wsi_magnet.doctor.check import CheckResult, Request
from wsi_magnet.doctor.compute import check_compute, check_gpu, check_unusable_gpus, check_weights, driver_version


def unusable(monkeypatch: pytest.MonkeyPatch, cuda: str | None, visible: str | None = None) -> CheckResult:
    monkeypatch.setattr(compute, "driver_version", lambda: "470.1")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(compute, "_cuda_error", lambda: "The NVIDIA driver is too old")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (found,) = check_unusable_gpus("auto")
    assert found.status == "warning"
    return found


def test_gpus_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "CUDA build" in unusable(monkeypatch, None).remedy
    assert "unset CUDA_VISIBLE_DEVICES" in unusable(monkeypatch, "12.8", "").remedy
    found = unusable(monkeypatch, "12.8")
    assert "driver 470.1, but torch for CUDA 12.8 cannot use it: The NVIDIA driver is too old" in found.text
    assert found.remedy.startswith("update the driver to one for CUDA 12.8")


@pytest.mark.parametrize(
    ("free", "error", "status", "words"),
    [
        (9, "", "ok", "9 B of 10 B free"),
        (4, "", "warning", "another program"),
        (9, "no kernel image. Compile", "problem", ": no kernel image"),
    ],
)
def test_a_gpu(monkeypatch: pytest.MonkeyPatch, free: int, error: str, status: str, words: str) -> None:
    ones = torch.ones

    def fake_ones(height: int, width: int, device: str) -> torch.Tensor:
        if error:
            raise RuntimeError(error)
        return ones(height, width)

    about = SimpleNamespace(name="A10", major=8, minor=6)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: about)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (free, 10))
    monkeypatch.setattr(torch, "ones", fake_ones)
    found = check_gpu(0)
    assert (found.status, words in found.text) == (status, True), found


def test_a_device_that_is_not_here(made_run: MadeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    bundle = str(made_run.bundle)
    found = [one for one in check_compute(Request(Execution(device="cuda"), bundle)) if one.subject == "device"]
    assert [(one.status, one.remedy) for one in found] == [("problem", "pass --device cpu")]
    assert [one.status for one in check_compute(Request(Execution(device="cpu"), bundle))][-1] == "ok"


def test_a_bundle_whose_tensors_are_cut(made_run: MadeRun, tmp_path: Path) -> None:
    assert not list(check_weights(str(made_run.bundle)))
    assert not list(check_weights(str(tmp_path / "none")))  # reported with its header


def test_driver_version(tmp_path: Path) -> None:
    file = tmp_path / "version"
    assert driver_version(file) is None
    file.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build")
    assert driver_version(file) == "550.54.14"
