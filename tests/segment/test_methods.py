"""Runs with other methods than MagNet: whole runs on small slides, whatever the tiles."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.few import slow_except
from tests.methods.made import random_head
from tests.nets.made import networks_of
from tests.runs import LocalSummary, MadeRun, free_spec, labels_of, run_serially
from tests.slides_made import stained, write_pyramid
from wsi_magnet.config import Execution, RunConfig
from wsi_magnet.errors import BundleError, ConfigError, ResultMismatchError
from wsi_magnet.geometry import Size
from wsi_magnet.methods import registry
from wsi_magnet.methods.method import Method, MethodInfo, Needs, PatchMaps
from wsi_magnet.nets.bundle import save_bundle
from wsi_magnet.nets.registry import feature_channels
from wsi_magnet.nets.spec import BundleSpec
from wsi_magnet.results.events import Event, TileFinished
from wsi_magnet.runtime.serial import SerialExecutor
from wsi_magnet.runtime.start import start_executor
from wsi_magnet.segment.slide import segment_slide


class Everything(Method):
    """A method whose result depends on all that a method may see."""

    info: ClassVar[MethodInfo] = MethodInfo(
        "Everything", "reimplemented", "none", "none", Needs(True, True, True, True, True), {"radius_um": 17.0}
    )

    @classmethod
    def build_head(cls, n_classes: int, feature_channels: int) -> nn.Module:
        """Features of patch and context, and colours, to classes."""
        return nn.Conv2d(2 * feature_channels + 3, n_classes, 1)

    def receptive_radius_px(self, mpp: float) -> int:
        """As the parameter says."""
        return round(self.parameters["radius_um"] / mpp)

    def refine(self, maps: PatchMaps) -> Tensor:
        """The head's probabilities, averaged over the radius, times those of both scales and of the context."""
        assert maps.context is not None
        assert maps.features is not None
        assert maps.fine is not None
        assert maps.rgb is not None
        assert self.head is not None
        size = maps.size_hw
        near = nn.functional.interpolate(maps.features, size, mode="bilinear", align_corners=False)
        far = maps.context.at(maps.context.features, size, size)
        own = self.head(torch.cat([near, far, maps.rgb], dim=1)).softmax(dim=1)
        side = 2 * self.receptive_radius_px(maps.mpp) + 1
        own = nn.functional.avg_pool2d(own, (side, 1), 1, (side // 2, 0))
        own = nn.functional.avg_pool2d(own, (1, side), 1, (0, side // 2))
        whole = maps.context.at(maps.context.probabilities, size, size)
        p = maps.inner(own * maps.fine * maps.coarse * whole) + 1e-6
        return p / p.sum(dim=1, keepdim=True)


@pytest.fixture(autouse=True)
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    point = SimpleNamespace(name="Everything", value="tests:Everything", load=lambda: Everything)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])


def small_spec(cell_px: int = 512, **methods: dict[str, float]) -> BundleSpec:
    return free_spec(network="small", network_args={"width": 4}, cell_px=cell_px, methods=methods)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(tmp_path_factory.mktemp("bundle") / "b.safetensors", 512)


def bundle_of(path: Path, cell_px: int) -> Path:
    """A bundle for the method above."""
    spec = small_spec(cell_px, Everything={"radius_um": 17.0})
    torch.manual_seed(1)
    head = Everything.build_head(3, feature_channels("small", width=4))
    save_bundle(path, spec, *networks_of(spec), heads={"Everything": head.state_dict()})
    return path


def run(slide: Path, bundle: Path, out: Path, **config: object) -> LocalSummary:
    values = {"tissue": False, "precision": "fp32", "keep_probabilities": True, **config}
    return run_serially(MadeRun(slide, bundle), out, RunConfig(**values))  # type: ignore[arg-type]


def test_a_method_that_sees_everything_does_not_see_tiles(made_run: MadeRun, bundle: Path, tmp_path: Path) -> None:
    one, other = (
        run(made_run.slide, bundle, tmp_path / str(tile), tile_px=tile, method="everything") for tile in (512, 2048)
    )
    for product in ("mask", "probabilities"):
        assert np.array_equal(labels_of(one.folder, 0, product), labels_of(other.folder, 0, product))
    cells = [(scale["cells_refined"], scale["cells"]) for scale in one.summary["scales"]]
    assert [refined == count for refined, count in cells] == [True, False, True]
    assert one.summary["scales"][2]["changed_share"] > 0.01
    magnet = run(made_run.slide, bundle, tmp_path / "magnet")
    assert not np.array_equal(labels_of(one.folder), labels_of(magnet.folder))


def test_nor_in_smaller_cells(tmp_path: Path) -> None:
    """The finest scale has a halo of 64 for the method, and cells at all places in those of the coarsest."""
    slide = write_pyramid(tmp_path / "small.tif", stained(Size(620, 300)), mpp=0.5)
    bundle = bundle_of(tmp_path / "small.safetensors", 128)
    one, other = (run(slide, bundle, tmp_path / str(tile), tile_px=tile, method="everything") for tile in (512, 1024))
    assert [scale["cells_refined"] for scale in one.summary["scales"]] == [2, 0, 15]
    for product in ("mask", "probabilities"):
        assert np.array_equal(labels_of(one.folder, 0, product), labels_of(other.folder, 0, product))


def test_it_takes_a_part_of_the_cells_where_it_is_asked_to(made_run: MadeRun, bundle: Path, tmp_path: Path) -> None:
    one, other = (
        run(made_run.slide, bundle, tmp_path / str(tile), tile_px=tile, method="everything", refine=0.3)
        for tile in (512, 1024)
    )
    assert np.array_equal(labels_of(one.folder), labels_of(other.folder))
    cells, refined = (one.summary["scales"][2][name] for name in ("cells", "cells_refined"))
    assert refined == int(np.ceil(0.3 * cells))


@pytest.mark.parametrize(("method", "mpp"), [("patching", 0.5), ("downsample", 2.0)])
def test_a_half_is_the_run_of_a_bundle_with_that_scale_alone(
    made_run: MadeRun, tmp_path: Path, method: str, mpp: float
) -> None:
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    spec = free_spec(temperature=(1.0, 1.5, 2.0))
    save_bundle(whole, spec, *networks_of(spec))
    temperature = spec.temperature[spec.mpps.index(mpp)]
    alone = free_spec(mpps=(mpp,), temperature=(temperature,), refiner_of=(), select_above=(), refine_above=())
    save_bundle(half, alone, *networks_of(alone))
    found = run(made_run.slide, whole, tmp_path / "found", method=method)
    expected = run(made_run.slide, half, tmp_path / "expected")
    for product in ("mask", "probabilities"):
        assert np.array_equal(labels_of(found.folder, 0, product), labels_of(expected.folder, 0, product))
    assert [one["mpp"] for one in found.summary["scales"]] == [mpp]


def test_another_method_does_not_resume_a_result(made_run: MadeRun, bundle: Path, tmp_path: Path) -> None:
    run(made_run.slide, bundle, tmp_path, method="downsample")
    with pytest.raises(ResultMismatchError, match=r"--method was Downsample and is MagNet\. Resume it with"):
        run(made_run.slide, bundle, tmp_path)
    with pytest.raises(ResultMismatchError, match=r"--method was Downsample and is Patching\. Resume it with"):
        run(made_run.slide, bundle, tmp_path, method="patching")


def test_an_unknown_method_is_refused_before_a_folder_is_made(made_run: MadeRun, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="method is 'nobody', none of Patching"):
        segment_slide(made_run.slide, tmp_path / "out", bundle=made_run.bundle, config=RunConfig(method="nobody"))
    assert not (tmp_path / "out").exists()


def test_a_bundle_without_its_weights_is_refused_before_a_folder_is_made(made_run: MadeRun, tmp_path: Path) -> None:
    spec = small_spec()
    save_bundle(tmp_path / "b.safetensors", spec, *networks_of(spec))
    with pytest.raises(BundleError, match=r"no weights for Everything; train them: .*\[Everything\]"):
        run(made_run.slide, tmp_path / "b.safetensors", tmp_path / "out", method="everything")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("mpps", "why"), [((2.0,), "the bundle has one scale"), ((2.0, 1.0), "the slide has pixels for one scale")]
)
def test_one_scale_alone_is_noted(tmp_path: Path, mpps: tuple[float, ...], why: str) -> None:
    """Pixels of 2 µm: at 1 µm they have nothing to show."""
    slide = write_pyramid(tmp_path / "coarse.tif", stained(Size(300, 200)), mpp=2.0)
    steps = len(mpps) - 1
    fitted = {"refiner_of": (0,) * steps, "select_above": (0.05,) * steps, "refine_above": (0.0,) * steps}
    spec = free_spec(mpps=mpps, temperature=(1.0,) * len(mpps), **fitted)
    save_bundle(tmp_path / "b.safetensors", spec, *networks_of(spec))
    notes: list[str] = []
    config, made = RunConfig(tissue=False, method="GF"), MadeRun(slide, tmp_path / "b.safetensors")
    done = run_serially(made, tmp_path / "out", config, observe=lambda event: notes.append(str(event)))
    assert any(f"GF refines a coarser result, and {why} only: not refined" in note for note in notes)
    assert len(done.summary["scales"]) == 1


def test_a_network_without_features_is_refused(made_run: MadeRun, tmp_path: Path) -> None:
    spec = free_spec(methods={"Everything": {}})
    save_bundle(tmp_path / "b.safetensors", spec, *networks_of(spec))
    with pytest.raises(BundleError, match="network 'identity' has none"):
        run(made_run.slide, tmp_path / "b.safetensors", tmp_path / "out", method="everything")


OWN_PARAMETERS: dict[str, dict[str, float]] = {
    "DenseCRF": {"theta_alpha_um": 8.0, "iterations": 2},
    "ISS": {"steps": 1},
    "PointRend": {"share": 0.1},
    "DeepStrip": {"half_width_um": 4.0, "shortest_um": 4.0},
}
"""Parameters with which the methods are quick, or change enough of a random result."""


@pytest.fixture(scope="module")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    """A slide of two tiles of 512 px, and a bundle with random weights for every method of the package."""
    folder = tmp_path_factory.mktemp("own")
    pixels = stained(Size(560, 140))
    slide = write_pyramid(folder / "slide.tif", pixels, mpp=0.5)
    channels = feature_channels("small", width=4)
    heads = {name: head.state_dict() for name in registry._OWN if (head := random_head(name, 3, channels)) is not None}
    spec = small_spec(128, **{name: OWN_PARAMETERS.get(name, {}) for name in registry._OWN})
    network, refiners = networks_of(spec)
    spread_classes(network, spec, pixels)
    save_bundle(folder / "own.safetensors", spec, network, refiners, heads=heads)
    return MadeRun(slide, folder / "own.safetensors")


def spread_classes(network: nn.Module, spec: BundleSpec, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """Change the last layer so that the result on these pixels, uint8 (H, W, 3), has every class and is rather sure."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    classify = network.get_submodule("classify")
    with torch.no_grad():
        coarse = torch.from_numpy(pixels[:128:4, :512:4].copy()).permute(2, 0, 1)[None] / 255
        logits = network.eval()((coarse - mean) / std)
        gain = 3 / logits.std(dim=(0, 2, 3))
        classify.bias.sub_(logits.mean(dim=(0, 2, 3))).mul_(gain)  # type: ignore[operator]
        classify.weight.mul_(gain.view(-1, 1, 1, 1))  # type: ignore[operator]


def run_own(made: MadeRun, out: Path, method: str, tile_px: int = 512, **options: Any) -> LocalSummary:
    config = RunConfig(tissue=False, precision="fp32", keep_probabilities=True, method=method, tile_px=tile_px)
    options = {"execution": SerialExecutor(), **options}
    return cast(LocalSummary, segment_slide(made.slide, out, bundle=made.bundle, config=config, **options))


def assert_same_pixels(one: LocalSummary, other: LocalSummary) -> None:
    for product in ("mask", "probabilities"):
        assert np.array_equal(labels_of(one.folder, 0, product), labels_of(other.folder, 0, product))


OneRun = Callable[[str], LocalSummary]
OWN = slow_except(["SegFix"], registry._OWN)


@pytest.fixture(scope="module")
def alone(own_run: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> OneRun:
    """The run with a method in one thread, made once, which changes the coarser result."""

    @cache
    def made(method: str) -> LocalSummary:
        done = run_own(own_run, tmp_path_factory.mktemp("alone"), method)
        assert [one["tiles"] for one in done.summary["scales"]] == [1, 1, 2]
        assert done.summary["scales"][-1]["changed_share"] > 0.001
        assert len(np.unique(labels_of(done.folder, 0, "probabilities"))) > 16
        return done

    return made


@pytest.mark.parametrize("method", OWN)
def test_a_method_does_not_see_tiles(own_run: MadeRun, alone: OneRun, tmp_path: Path, method: str) -> None:
    whole = run_own(own_run, tmp_path, method, tile_px=1024)
    assert [one["tiles"] for one in whole.summary["scales"]] == [1, 1, 1]
    assert_same_pixels(alone(method), whole)


class Stopped(Exception):
    """The end of a run."""


@pytest.mark.parametrize("method", OWN)
def test_a_stopped_run_of_a_method_is_resumed(own_run: MadeRun, alone: OneRun, tmp_path: Path, method: str) -> None:
    """Stopped between the two tiles of the finest scale; the second run computes the other one alone."""
    seen: list[Event] = []

    def stop(event: Event) -> None:
        seen.append(event)
        if sum(isinstance(one, TileFinished) for one in seen) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        run_own(own_run, tmp_path, method, observe=stop)
    seen.clear()
    resumed = run_own(own_run, tmp_path, method, observe=seen.append)
    assert sum(isinstance(one, TileFinished) for one in seen) == 1
    assert_same_pixels(alone(method), resumed)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_methods_do_not_see_workers(own_run: MadeRun, alone: OneRun, tmp_path: Path) -> None:
    """All methods of the package on two processes that Dask starts, against this thread."""
    executor = start_executor(Execution("cpu", workers=2), threads=2)
    try:
        for method in registry._OWN:
            shared = run_own(own_run, tmp_path / method, method, execution=executor)
            assert_same_pixels(alone(method), shared)
    finally:
        executor.close()
