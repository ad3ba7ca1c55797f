"""`wsi-magnet run`: results on stdout, progress and errors on stderr, exit codes."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands import Call, one_line
from tests.runs import MadeRun, free_spec, labels_of, run_serially, write_bundle
from wsi_magnet.config import Execution
from wsi_magnet.nets.spec import ClassInfo
from wsi_magnet.results.events import Observer, ScaleStarted
from wsi_magnet.results.folder import ResultFolder


def test_a_run_says_where_the_mask_is(call: Call, made_run: MadeRun, tmp_path: Path) -> None:
    first = call("run", made_run.slide, "-o", tmp_path, "--bundle", made_run.bundle)
    assert first.exit_code == 0, first.output
    mask = tmp_path / made_run.slide.stem / "mask.ome.zarr"
    assert str(mask) in first.stdout
    assert mask.is_dir()
    assert "green" in first.stdout
    assert re.search(r"\n0\.5 µm/px +9 +\d+( +[\d.]+ %)?\n", first.stdout)
    assert first.stdout.endswith("Not for diagnosis.\n")
    opening = f"Opening {made_run.slide.name} with bundle free (red, green, blue; 2, 1, 0.5 µm/px)"
    assert first.stderr.splitlines()[0] == opening
    assert "dashboard" not in first.stderr
    assert re.search(r"scale 3/3  0\.5 µm/px  9 of 9 cells, \d+ tiles?; \d+ % done, about [^,]+ left\n", first.stderr)
    assert re.search(r"\n0\.5 µm/px finished in [\d.]+ s\n", first.stderr)
    again = call("run", made_run.slide, "-o", tmp_path, "--bundle", made_run.bundle)
    assert again.exit_code == 0
    assert "Finished before; nothing to do" in again.stdout
    other = call("run", made_run.slide, "-o", tmp_path, "--bundle", made_run.bundle, "--refine", "0.1")
    assert "--refine was auto and is 0.1. Resume it with --refine auto, or start again" in one_line(other)
    restarted = call(
        "run", made_run.slide, "-o", tmp_path, "--bundle", made_run.bundle, "--refine", "0.1", "--restart", "--json"
    )
    values = json.loads(restarted.stdout)
    assert values["scales"][2]["cells_refined"] < values["scales"][2]["cells"]
    assert values["done_before"] is False


@pytest.mark.slow
def test_a_dashboard_is_started_on_request(call: Call, made_run: MadeRun, tmp_path: Path) -> None:
    shown = call("run", made_run.slide, "-o", tmp_path, "--bundle", made_run.bundle, "--dashboard")
    assert re.search(r"; dashboard http://127\.0\.0\.1:\d+/status\n", shown.stderr)


@pytest.mark.slow
def test_another_bundle_is_refused(call: Call, made_run: MadeRun, tmp_path: Path) -> None:
    assert call("run", made_run.slide, "-o", tmp_path, "--bundle", made_run.bundle).exit_code == 0
    classes = (*free_spec().classes[:2], ClassInfo("violet", 9, (9, 9, 9)))
    other = write_bundle(tmp_path / "other.safetensors", free_spec(name="other", classes=classes))
    text = one_line(call("run", made_run.slide, "-o", tmp_path, "--bundle", other))
    assert "--bundle was free" in text
    assert "other" in text


@pytest.mark.slow
def test_what_is_kept(call: Call, made_run: MadeRun, tmp_path: Path) -> None:
    kept = "probabilities,uncertainty"
    arguments = ["run", made_run.slide, "-o", tmp_path, "--bundle", made_run.bundle, "--keep", kept]
    assert call(*arguments).exit_code == 0
    folder = tmp_path / made_run.slide.stem
    p = labels_of(folder, 0, "probabilities").astype(int)
    known = p.sum(0) > 0
    assert p.shape[0] == 3
    assert (np.abs(p.sum(0)[known] - 255) <= 2).all()
    labels = labels_of(folder)
    top = np.sort(p, axis=0)
    sure = known & (top[-1] > top[-2])
    assert (labels[sure] == (p.argmax(0) + 1)[sure]).all()
    assert (labels_of(folder, 0, "uncertainty")[known] == (255 - (top[-1] - top[-2]))[known]).all()
    assert not (folder / "journal.jsonl.partial").exists()


def test_a_slide_smaller_than_a_patch(call: Call, made_run: MadeRun, tmp_path: Path) -> None:
    slide = tmp_path / "tiny.png"
    Image.fromarray(np.full((7, 5, 3), (200, 120, 180), np.uint8)).save(slide)
    result = call("run", slide, "-o", tmp_path, "--bundle", made_run.bundle, "--mpp", "0.5", "--no-tissue")
    assert result.exit_code == 0, result.output
    assert labels_of(tmp_path / "tiny").shape == (7, 5)


def test_an_empty_slide_gives_an_empty_mask(call: Call, made_run: MadeRun, tmp_path: Path) -> None:
    slide = tmp_path / "glass.png"
    Image.fromarray(np.full((900, 1200, 3), 240, np.uint8)).save(slide)
    result = call("run", slide, "-o", tmp_path, "--bundle", made_run.bundle, "--mpp", "0.5")
    assert result.exit_code == 0, result.output
    assert "no tissue found" in result.stderr
    assert not labels_of(tmp_path / "glass").any()
    attributes = json.loads((tmp_path / "glass" / "mask.ome.zarr" / ".zattrs").read_text())
    assert len(attributes["multiscales"][0]["datasets"]) == 3
    assert "Finished before" in call("run", slide, "-o", tmp_path, "--bundle", made_run.bundle, "--mpp", "0.5").stdout


@pytest.mark.parametrize(
    ("slide", "words"),
    [
        ("missing.svs", "no such file"),
        ("folder", "is a folder"),
        ("broken.svs", "cannot be opened"),
        ("empty.svs", "cannot be opened"),
        ("text.png", "cannot be opened"),
        ("truncated.svs", "truncated.svs"),
        ("no_mpp.png", "pass --mpp, in Python mpp=, the microns per pixel at level 0"),
    ],
)
def test_bad_slides(call: Call, long_run: MadeRun, tmp_path: Path, slide: str, words: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.svs").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "empty.svs").write_bytes(b"")
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "truncated.svs").write_bytes(long_run.slide.read_bytes()[:60_000])
    Image.new("RGB", (50, 50)).save(tmp_path / "no_mpp.png")
    text = one_line(call("run", tmp_path / slide, "-o", tmp_path / "out", "--bundle", long_run.bundle))
    assert words in text
    assert slide in text
    assert not list((tmp_path / "out").glob("*/mask.ome.zarr")), "nothing is left behind by what was never started"


@pytest.mark.parametrize("command", [["plan"], ["run", "-o", "out"]], ids=lambda words: words[0])
def test_several_slides_are_for_batch(call: Call, tmp_path: Path, command: list[str]) -> None:
    result = call(*command, "a.svs", "b.svs")
    assert result.exit_code == 2
    assert "not b.svs too; `wsi-magnet batch` segments several" in result.stderr
    assert f"`wsi-magnet batch {tmp_path} -o OUT`" in one_line(call(*command, tmp_path))


@pytest.mark.parametrize("mpp", ["1000", "0", "-1", "nan"])
def test_an_mpp_that_no_slide_has(call: Call, made_run: MadeRun, tmp_path: Path, mpp: str) -> None:
    result = call("run", made_run.slide, "-o", tmp_path, "--bundle", made_run.bundle, "--mpp", mpp)
    assert result.exit_code == 2
    assert f"--mpp is {float(mpp)}, not a number between" in result.stderr
    assert "None" not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["missing", "text", "folder", "truncated", "slide"])
def test_bundles_that_are_none(call: Call, made_run: MadeRun, tmp_path: Path, kind: str) -> None:
    bundle = tmp_path / f"{kind}.safetensors"
    if kind == "folder":
        bundle.mkdir()
    elif kind == "text":
        bundle.write_text("no weights here")
    elif kind == "truncated":
        shipped = write_bundle(tmp_path / "whole.safetensors", free_spec())
        bundle.write_bytes(shipped.read_bytes()[:100])
    elif kind == "slide":
        shutil.copy(made_run.slide, bundle)
    text = one_line(call("run", made_run.slide, "-o", tmp_path / "out", "--bundle", bundle))
    assert bundle.name in text


def test_an_output_that_is_a_file(call: Call, made_run: MadeRun, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    text = one_line(call("run", made_run.slide, "-o", tmp_path / "out", "--bundle", made_run.bundle))
    assert "choose another output folder" in text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_that_cannot_be_written(call: Call, made_run: MadeRun, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    text = one_line(call("run", made_run.slide, "-o", out, "--bundle", made_run.bundle))
    assert "choose another output folder" in text


def test_a_second_run_on_the_same_output(call: Call, made_run: MadeRun, tmp_path: Path) -> None:
    with ResultFolder(tmp_path / made_run.slide.stem).locked():
        text = one_line(call("run", made_run.slide, "-o", tmp_path, "--bundle", made_run.bundle))
    assert f"process {os.getpid()}" in text


@pytest.mark.slow
def test_two_slides_of_one_name(call: Call, made_run: MadeRun, tmp_path: Path, demo_slide: Path) -> None:
    assert call("run", made_run.slide, "-o", tmp_path, "--bundle", made_run.bundle).exit_code == 0
    twin = tmp_path / "other" / made_run.slide.with_suffix(".tif").name
    twin.parent.mkdir()
    shutil.copy(demo_slide, twin)
    arguments = ["run", twin, "-o", tmp_path, "--bundle", made_run.bundle, "--mpp", "0.93"]
    text = one_line(call(*arguments, "--restart"))
    assert "another slide" in text
    assert str(made_run.slide) in text
    assert call(*arguments, "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--device", "tpu"],
        ["--device", "cuda:x"],
        ["--refine", "most"],
        ["--refine", "1.5"],
        ["--keep", "everything"],
        ["--tile", "700"],
        ["--ngff", "0.6"],
        ["--batch-size", "0"],
        ["--workers", "0"],
        ["--workers", "2", "--scheduler", "tcp://localhost:1"],
        ["--no-such-option"],
    ],
)
def test_wrong_usage_is_exit_2(call: Call, made_run: MadeRun, tmp_path: Path, arguments: list[str]) -> None:
    result = call("run", made_run.slide, "-o", tmp_path, *arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output


def test_a_scheduler_that_is_not_there(
    call: Call, made_run: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_magnet.runtime.start._CONNECT_S", 1.0)
    arguments = ["run", made_run.slide, "-o", tmp_path, "--bundle", made_run.bundle]
    text = one_line(call(*arguments, "--scheduler", "tcp://127.0.0.1:9"))
    assert "tcp://127.0.0.1:9" in text
    assert "dask scheduler" in text


def run_in_a_process(made: MadeRun, out: Path, **limits: int) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        # Writing beyond the limit is an error to handle, not a signal to die of.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, name), (value, value))

    command = [sys.executable, "-m", "wsi_magnet", "run", str(made.slide), "-o", str(out), "--bundle", str(made.bundle)]
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)


@pytest.mark.slow
def test_no_space_left_loses_nothing(call: Call, made_run: MadeRun, tmp_path: Path) -> None:
    failed = run_in_a_process(made_run, tmp_path, RLIMIT_FSIZE=60_000)
    assert failed.returncode == 1, failed.stderr
    errors = [line for line in failed.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1
    assert "free some space and run the same command again" in errors[0]
    assert "Traceback" not in failed.stderr
    done = call("run", made_run.slide, "-o", tmp_path, "--bundle", made_run.bundle)
    assert done.exit_code == 0, done.stderr
    whole = run_serially(made_run, tmp_path / "whole").folder
    assert (labels_of(tmp_path / made_run.slide.stem) == labels_of(whole)).all()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting a small disk needs root")
def test_a_full_disk_loses_nothing(made_run: MadeRun, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a disk")
    try:
        failed = run_in_a_process(made_run, disk)
        assert failed.returncode == 1, failed.stderr
        assert "no space left" in failed.stderr.lower()
        assert "Traceback" not in failed.stderr
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        done = run_in_a_process(made_run, disk)
        assert done.returncode == 0, done.stderr
        assert "finished before" in done.stderr
    finally:
        subprocess.run(["umount", str(disk)], check=False)


@pytest.mark.parametrize(
    "address", ["nonsense", "tcp://head", "head:port", "tcp://head:8786/x", "http://head:80", "", "two words:1"]
)
def test_an_address_that_is_none(call: Call, made_run: MadeRun, tmp_path: Path, address: str) -> None:
    result = call("run", made_run.slide, "-o", tmp_path, "--scheduler", address)
    assert result.exit_code == 2
    assert "such as tcp://HOST:8786" in result.stderr


@pytest.mark.parametrize(
    "address", ["tcp://head:8786", "head:8786", "tls://10.0.0.1:1", "tcp://[::1]:8786", "inproc://10.0.0.1/7/1"]
)
def test_addresses(address: str) -> None:
    assert Execution(scheduler=address).scheduler == address


@pytest.mark.parametrize(
    ("options", "started", "message"),
    [
        (["--restart"], False, "Stopped. Nothing of the new run is finished yet: the same command starts it again."),
        (["--restart"], True, "Stopped. What is finished is kept: the same command, without --restart or --overwrite,"),
        ([], False, "Stopped. What is finished is kept: the same command, without --restart or --overwrite,"),
    ],
)
def test_a_stop_promises_only_what_holds(
    call: Call, made_run: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    options: list[str], started: bool, message: str,
) -> None:  # fmt: skip
    def stopped(*_: object, observe: Observer, **__: object) -> None:
        if started:
            observe(ScaleStarted(0, 3, 2.0, 1, 0, 1, 1))
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("wsi_magnet.segment.slide.segment_slide", stopped)
    done = call("run", made_run.slide, "-o", tmp_path, "--bundle", made_run.bundle, *options)
    assert done.exit_code == 130
    assert done.stderr.splitlines()[-1].startswith(message)
