"""Each fact that will not do has its line and its cure, and a machine that is as it should be has none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.doctor.facts_made import (
    ASKED,
    BUNDLE,
    CODECS,
    COMPUTING,
    COST,
    FOLDER,
    GIB,
    GPU,
    MEMORY,
    OPENSLIDE,
    SLIDE,
    TRIAL,
    only,
    worst,
)
from wsi_magnet.config import Execution
from wsi_magnet.doctor import computing_verdicts, verdicts
from wsi_magnet.doctor.asked import Asked
from wsi_magnet.doctor.facts import Ended, OpenFiles, Processors
from wsi_magnet.doctor.lines import Line


def all_well() -> Iterator[Line]:
    yield from verdicts.processors(Processors(8, 4, True))
    yield from verdicts.memory(MEMORY, COST, ASKED)
    yield from verdicts.open_files(OpenFiles(1024, 4096))
    yield from verdicts.folder(FOLDER, "output", COST)
    yield from verdicts.openslide(OPENSLIDE)
    yield from verdicts.codecs(CODECS)
    yield from verdicts.bundle(BUNDLE)
    yield from verdicts.slide(SLIDE)
    yield from computing_verdicts.computing(COMPUTING)
    yield from computing_verdicts.trial(TRIAL)


def test_a_good_machine_has_nothing_but_ok() -> None:
    lines = list(all_well())
    assert {line.state for line in lines} == {"ok"}
    assert not any(line.cure for line in lines)


def test_processors_say_what_is_used_of_what_is_there() -> None:
    assert "4 of this machine's 8" in only(verdicts.processors(Processors(8, 4, False)), "ok").text
    assert only(verdicts.processors(Processors(8, 8, True)), "ok").text.startswith("8;")


def test_memory_is_held_against_what_a_run_takes() -> None:
    takes = COST.memory_bytes(ASKED.processes, ASKED.threads)
    assert takes == 2 * (GIB + ASKED.threads * GIB // 2)
    line = only(verdicts.memory(replace(MEMORY, limit=takes - 1), COST, ASKED), "PROBLEM")
    assert "allowed to this process" in line.text
    assert "2 processes" in line.text
    assert only(verdicts.memory(replace(MEMORY, available=takes - 1), COST, ASKED), "warning").cure.startswith("end")
    assert only(verdicts.memory(replace(MEMORY, limit=takes), COST, ASKED), "ok")


def test_memory_here_does_not_matter_where_others_work() -> None:
    asked = Asked(Execution(scheduler="tcp://head:8786"))
    assert only(verdicts.memory(replace(MEMORY, limit=1000), COST, asked), "ok")


def test_few_open_files_are_told_by_whom_they_can_be_raised() -> None:
    assert "ulimit -n" in only(verdicts.open_files(OpenFiles(256, 4096)), "warning").cure
    assert "ask whoever" in only(verdicts.open_files(OpenFiles(256, 256)), "warning").cure
    assert only(verdicts.open_files(OpenFiles(-1, -1)), "ok").text == "without limit"


@pytest.mark.parametrize(
    ("change", "state", "word"),
    [
        ({"error": "Permission denied"}, "PROBLEM", "Permission denied"),
        ({"locks": "Function not implemented"}, "PROBLEM", "locked"),
        ({"renames": "a file did not take another's place"}, "PROBLEM", "place"),
        ({"free_bytes": 1_000_000}, "PROBLEM", "1.0 MB free"),
        ({"free_bytes": 500_000_000}, "warning", "500.0 MB free"),
        ({"fsync_s": 0.5}, "warning", "0.5 s"),
    ],
)
def test_folders_that_will_not_do(change: dict[str, object], state: str, word: str) -> None:
    line = worst(verdicts.folder(replace(FOLDER, **change), "output"), state)  # type: ignore[arg-type]
    assert word in line.text
    assert "-o" in line.cure
    if state == "PROBLEM":
        assert "TMPDIR" in worst(verdicts.folder(replace(FOLDER, **change), "temporary"), state).cure  # type: ignore[arg-type]


def test_a_tmpdir_that_is_passed_over() -> None:
    assert "/scratch" in only(verdicts.temporary_elsewhere("/scratch", "/tmp"), "warning").text
    assert not list(verdicts.temporary_elsewhere("/scratch/", "/scratch"))
    assert not list(verdicts.temporary_elsewhere(None, "/tmp"))


def test_a_disk_is_held_against_the_slides_result() -> None:
    cost = replace(COST, disk_bytes=5 * 10**9)
    line = only(verdicts.folder(replace(FOLDER, free_bytes=4 * 10**9), "output", cost), "warning")
    assert "5.0 GB" in line.text
    assert only(verdicts.folder(replace(FOLDER, free_bytes=6 * 10**9), "output", cost), "ok")


def test_a_folder_that_is_still_to_be_made_is_told_with_the_one_above() -> None:
    line = only(verdicts.folder(replace(FOLDER, path="/data/out/new"), "output"), "ok")
    assert "/data/out/new (to be made below /data/out)" in line.text


def test_openslide_that_is_missing_old_or_broken() -> None:
    assert only(verdicts.openslide(replace(OPENSLIDE, version="", error="not installed")), "PROBLEM")
    assert "older" in only(verdicts.openslide(replace(OPENSLIDE, version="3.4.1")), "PROBLEM").text
    assert "bad j2k" in only(verdicts.openslide(replace(OPENSLIDE, error="bad j2k")), "PROBLEM").text


def test_formats_are_those_of_the_version() -> None:
    formats = {v: " ".join(x.text for x in verdicts.openslide(replace(OPENSLIDE, version=v))) for v in ("4.0.0", "4.1")}
    assert "Zeiss" not in formats["4.0.0"]
    assert "Zeiss" in formats["4.1"]
    assert all("DICOM" in text for text in formats.values())


def test_codecs_name_what_fails() -> None:
    line = only(verdicts.codecs(replace(CODECS, errors={"JPEG": None, "JPEG 2000": "no such codec"})), "PROBLEM")
    assert line.text == "2025.8.2 fails at JPEG 2000 (no such codec)"


def test_bundle_and_slide_that_cannot_be_used() -> None:
    assert "gone" in only(verdicts.bundle(replace(BUNDLE, error="gone")), "PROBLEM").text
    assert "cut" in only(verdicts.slide(replace(SLIDE, error="cut")), "PROBLEM").text
    assert "--mpp" in only(verdicts.slide(replace(SLIDE, mpp=None)), "warning").cure
    assert (
        "sizes" in worst(computing_verdicts.computing(replace(COMPUTING, bundle_error="sizes differ")), "PROBLEM").text
    )


def test_a_cpu_build_beside_a_gpu() -> None:
    line = worst(computing_verdicts.computing(replace(COMPUTING, nodes=2, driver="550.54")), "warning")
    assert "2 NVIDIA GPUs, driver 550.54" in line.text
    assert "pytorch.org" in line.cure


def test_a_gpu_that_is_hidden_or_whose_driver_is_old() -> None:
    built = replace(COMPUTING, cuda="12.8", nodes=1, driver="470.1", cuda_error="The NVIDIA driver is too old")
    assert "update the driver" in worst(computing_verdicts.computing(built), "warning").cure
    assert "unset" in worst(computing_verdicts.computing(replace(built, visible="")), "warning").cure


def test_a_device_that_is_not_here() -> None:
    found = replace(COMPUTING, device="cuda", resolved=None, cuda="12.8", cuda_error="no driver")
    assert [line.state for line in computing_verdicts.computing(found)] == ["warning", "PROBLEM"]
    beyond = replace(COMPUTING, device="cuda:1", resolved=None, cuda="12.8", gpus=(GPU,))
    assert "name one" in worst(computing_verdicts.computing(beyond), "PROBLEM").cure


def test_gpus_that_are_used_or_unfit() -> None:
    found = replace(COMPUTING, cuda="12.8", resolved="cuda", precision="fp16", gpus=(GPU,), nodes=1, driver="570")
    assert [line.state for line in computing_verdicts.computing(found)] == ["ok", "ok"]
    used = replace(found, gpus=(replace(GPU, free_bytes=GIB),))
    assert "another program" in worst(computing_verdicts.computing(used), "warning").text
    unfit = replace(found, gpus=(replace(GPU, error="no kernel image is available"),))
    assert "no kernel image" in worst(computing_verdicts.computing(unfit), "PROBLEM").text


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"error": "no space left"}, "no space left"),
        ({"failures": ("8 µm/px, row 0, column 0: cut",)}, "row 0"),
        ({"labels": {0: 5, 7: 1}}, "[7]"),
        ({"labels": {0: 5}}, "empty"),
    ],
)
def test_trials_that_went_wrong(change: dict[str, object], word: str) -> None:
    assert word in only(computing_verdicts.trial(replace(TRIAL, **change)), "PROBLEM").text  # type: ignore[arg-type]


def test_a_part_that_did_not_end() -> None:
    line = only(verdicts.ended(Ended("computing", "it crashed (SIGILL)")), "PROBLEM")
    assert line.text == "computing did not end: it crashed (SIGILL)"
