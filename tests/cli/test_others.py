"""`info`, `plan`, `bundle show`, `overlay`: what they print for people and for machines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from torch import nn

from tests.commands import Call, one_line
from tests.nets.made import networks_of, small_spec
from tests.runs import MadeRun
from wsi_magnet.cli.options import in_option_words
from wsi_magnet.config import Execution, RunConfig
from wsi_magnet.errors import ConfigError
from wsi_magnet.nets.bundle import save_bundle
from wsi_magnet.slides.mpp import check_mpp


def test_info_for_people(call: Call, long_run: MadeRun) -> None:
    text = call("info", long_run.slide, "--bundle", long_run.bundle).stdout
    assert "aperio" in text
    assert "2220 x 2967" in text
    assert "0.499 x 0.499 µm (from openslide.mpp-x)" in text
    assert "0.5 µm/px" in text
    assert "objective   20x" in text
    assert "scanned     12/29/09" in text
    assert "identity    6335ea0e6cc54c2c… (whole: --json)" in text


def test_info_for_machines(call: Call, long_run: MadeRun) -> None:
    values = json.loads(call("info", long_run.slide, "--bundle", long_run.bundle, "--json").stdout)
    assert values["size_wh"] == [2220, 2967]
    assert values["mpp_xy"] == [0.499, 0.499]
    assert len(values["identity"]) == 64
    assert values["objective_power"] == "20"
    assert [s["mpp"] for s in values["scales"]] == [2.0, 1.0, 0.5]
    assert values["scales"][2]["size_wh"] == [2216, 2962]


def test_info_without_mpp_still_shows_the_slide(call: Call, made_run: MadeRun, demo_slide: Path) -> None:
    result = call("info", demo_slide, "--bundle", made_run.bundle)
    assert result.exit_code == 0
    assert "No scales: " in result.stdout
    assert "pass --mpp" in result.stdout
    assert "1 µm/px" in call("info", demo_slide, "--bundle", made_run.bundle, "--mpp", "0.93").stdout


def test_scales_finer_than_the_slide_are_named(call: Call, made_run: MadeRun) -> None:
    text = call("info", made_run.slide, "--bundle", made_run.bundle, "--mpp", "1.0").stdout
    assert "Left out, finer than the slide: 0.5" in text
    assert "Upsampled" not in text
    text = call("info", made_run.slide, "--bundle", made_run.bundle, "--mpp", "3.0").stdout
    assert "Upsampled, finer than the slide: 2 µm/px" in text
    assert "Left out, finer than the slide: 1, 0.5 µm/px" in text


def test_options_of_other_programs_lead_to_ours(call: Call, made_run: MadeRun, tmp_path: Path) -> None:
    refused = call("run", made_run.slide, "-o", tmp_path, "--gpu")
    assert refused.exit_code == 2
    assert "--device cuda" in refused.stderr
    assert "--mpp" not in refused.stderr
    assert "--device" not in call("info", made_run.slide, "--gpu").stderr, "info computes nothing"


def test_a_slide_too_coarse_for_the_bundle_is_refused(call: Call, made_run: MadeRun, tmp_path: Path) -> None:
    given = [made_run.slide, "--bundle", made_run.bundle, "--mpp", "29"]
    for command in (["plan", *given], ["run", *given, "-o", tmp_path]):
        text = one_line(call(*command))
        assert made_run.slide.name in text
        assert "29 µm, 14.5 times as coarse as the coarsest scale of the bundle (2 µm/px)" in text
    assert not list(tmp_path.iterdir())
    shown = call("info", *given)
    assert shown.exit_code == 0
    assert "14.5 times as coarse" in shown.stdout
    assert "14.5 times" in json.loads(call("info", *given, "--json").stdout)["refused"]


def test_a_slide_twice_as_coarse_as_the_bundle_is_segmented_with_a_note(
    call: Call, made_run: MadeRun, tmp_path: Path
) -> None:
    given = [made_run.slide, "--bundle", made_run.bundle, "--mpp", "4", "--no-tissue", "--refine", "0"]
    assert "the mask is a guess" in call("plan", *given).stdout
    result = call("run", *given, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert "the mask is a guess" in result.stderr
    assert "the mask is a guess" in (tmp_path / made_run.slide.stem / "run.json").read_text()


def test_plan_counts(call: Call, long_run: MadeRun) -> None:
    arguments = ["plan", long_run.slide, "--bundle", long_run.bundle, "--no-tissue", "--no-time"]
    values = json.loads(call(*arguments, "--json").stdout)
    assert [p["cells"] for p in values["scales"]] == [4, 9, 30]
    assert [p["patches"] for p in values["scales"]] == [4, 9, 30]
    assert [p["tiles"] for p in values["scales"]] == [1, 4, 9]
    assert values["memory_bytes"] > 0
    assert (values["total"]["cells"], values["total"]["patches"], values["total"]["tiles"]) == (43, 43, 14)
    assert values["total"]["disk_bytes"] == values["disk_bytes"]
    assert values["time"] is None
    fifth = json.loads(call(*arguments, "--refine", "0.2", "--json").stdout)
    assert [p["patches"] for p in fifth["scales"]] == [4, 8, 0]
    text = call(*arguments).stdout
    assert "independent of the slide's size" in text
    assert text.splitlines()[4].split()[:5] == ["all", "scales", "14", "43", "43"]


@pytest.mark.slow
def test_plan_estimates_the_time_on_this_machine(call: Call, made_run: MadeRun) -> None:
    arguments = ["plan", made_run.slide, "--bundle", made_run.bundle, "--workers", "1"]
    auto, everything = (json.loads(call(*arguments, "--refine", how, "--json").stdout) for how in ("auto", "all"))
    for values in (auto, everything):
        assert values["time"]["device"] == "cpu"
        assert values["time"]["measured_s"] > 0
        assert 0 < values["time"]["seconds"]["least"] <= values["time"]["seconds"]["most"]
        assert all(one["seconds"]["least"] <= one["seconds"]["most"] for one in values["scales"])
    text = call(*arguments, "-o", "ignored", "--restart").stdout
    assert re.search(r"\ntime +about \d.* on this machine with \d+ threads?: an estimate, measured now", text)
    assert text.splitlines()[0].endswith("  time")


def test_plan_takes_every_option_of_run() -> None:
    from wsi_magnet.cli import plan, run

    assert {one.name for one in plan.command.params} >= {one.name for one in run.command.params}


def test_plan_of_workers_elsewhere_has_no_time(call: Call, made_run: MadeRun) -> None:
    result = call("plan", made_run.slide, "--bundle", made_run.bundle, "--scheduler", "tcp://head:8786")
    assert result.exit_code == 0
    assert "no time is given" in result.stderr
    assert "\ntime " not in result.stdout


def test_plan_writes_nothing_and_without_the_time_computes_nothing(
    call: Call, made_run: MadeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("plan", made_run.slide, "--bundle", made_run.bundle, "-o", "out").exit_code == 0
    monkeypatch.setattr("wsi_magnet.worker.speed.measure_speed", None)
    assert call("plan", made_run.slide, "--bundle", made_run.bundle, "--no-time").exit_code == 0
    assert not list(tmp_path.iterdir())


def test_bundle_show(call: Call, made_run: MadeRun) -> None:
    assert "identity" in call("bundle", "show", made_run.bundle).stdout
    values = json.loads(call("bundle", "show", made_run.bundle, "--json").stdout)
    assert [c["name"] for c in values["classes"]] == ["red", "green", "blue"]
    shipped = call("bundle", "show").stdout
    assert "not for" in shipped.lower()
    assert "CC BY 4.0" in shipped
    assert "one for each step from scale to scale" in shipped
    assert "512 x 512 px, with a halo of at least 32" in shipped
    assert "`wsi-magnet evaluate` measures the accuracy" in shipped, "validation figures are explained"
    assert "fine_first" not in shipped


def test_bundle_show_lists_other_methods(call: Call, tmp_path: Path) -> None:
    spec, path = small_spec(methods={"GF": {"radius_um": 8.0, "eps": 0.001}, "Net": {}}), tmp_path / "b.safetensors"
    head = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    save_bundle(path, spec, *networks_of(spec), heads={"Net": head.state_dict()})
    lines = [line.split(maxsplit=2) for line in call("bundle", "show", path).stdout.splitlines()]
    assert ["GF", "0", "radius_um 8, eps 0.001"] in lines
    assert ["Net", "15", "-"] in lines, "9 of the convolution, 6 of the normalisation without its running means"
    values = json.loads(call("bundle", "show", path, "--json").stdout)
    assert values["head_parameters"] == {"GF": 0, "Net": 15}
    assert values["methods"]["GF"] == {"radius_um": 8.0, "eps": 0.001}


@pytest.mark.parametrize("command", ["info", "plan", "run"])
def test_a_missing_slide_everywhere(call: Call, made_run: MadeRun, tmp_path: Path, command: str) -> None:
    more = ["-o", tmp_path] if command == "run" else []
    assert "no such file" in one_line(call(command, tmp_path / "none.svs", "--bundle", made_run.bundle, *more))


def test_overlay(call: Call, made_run: MadeRun, tmp_path: Path) -> None:
    call("run", made_run.slide, "-o", tmp_path, "--bundle", made_run.bundle)
    folder = tmp_path / made_run.slide.stem
    result = call("overlay", folder, "--size", "800")
    assert result.exit_code == 0, result.output
    with Image.open(folder / "overlay.png") as picture:
        assert picture.width >= 500
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**24) or []}
    assert {(220, 60, 60), (60, 180, 60), (60, 60, 220)} <= colours, "each class is outlined in its own colour"
    assert call("overlay", folder, "--size", "100", "-o", tmp_path / "tiny.png").exit_code == 0
    assert "no result folder" in one_line(call("overlay", tmp_path))
    assert ".gif" in one_line(call("overlay", folder, "-o", tmp_path / "x.gif"))


def test_errors_of_the_library_name_the_options_of_the_command_line() -> None:
    for make, text in (
        (lambda: RunConfig(refine=3), "--refine is 3, not"),
        (lambda: RunConfig(tile_px=300), "--tile is 300, not"),
        (lambda: RunConfig(batch_size=0), "--batch-size is 0, not"),
        (lambda: Execution(workers=1, cluster="a"), "--workers, --scheduler and --cluster exclude each other"),
        (lambda: check_mpp(0), "--mpp 0 is no resolution"),
    ):
        with pytest.raises(ConfigError) as caught:
            make()
        assert in_option_words(caught.value).startswith(text)
