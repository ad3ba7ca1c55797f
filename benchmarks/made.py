"""Inputs of the benchmarks: bundles with random weights, and the slides of `tests/slides_made.py`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.runs import write_bundle
from wsi_magnet.nets.spec import BundleSpec, ClassInfo

MPPS = (2.0, 1.0, 0.5)


def classes(n: int) -> tuple[ClassInfo, ...]:
    """A number of classes with generated names."""
    return tuple(ClassInfo(f"class {i}", i + 1, (40 * i % 256, 90, 160)) for i in range(n))


def fpn_spec(mpps: tuple[float, ...] = MPPS, n_classes: int = 5) -> BundleSpec:
    """The published backbone of DeepGlobe with the published refinement module, one for all scales."""
    return BundleSpec(
        name="resnet50-fpn",
        network="fpn",
        classes=classes(n_classes),
        mpps=mpps,
        refiner_of=(0,) * (len(mpps) - 1),
        select_above=(0.1,) * (len(mpps) - 1),
        refine_above=(0.1,) * (len(mpps) - 1),
        temperature=(1.0,) * len(mpps),
    )


def small_bundle(folder: Path) -> Path:
    """The network and the refinement modules of the shipped bundle, with random weights, at scales twice as fine."""
    spec = replace(fpn_spec(n_classes=2), name="small", network="small", network_args={"width": 16})
    return write_bundle(folder / "small.safetensors", spec)


def fpn_bundle(folder: Path, mpps: tuple[float, ...] = MPPS, n_classes: int = 5) -> Path:
    """Path of a bundle with random weights; uncertain everywhere, so that no cell is skipped."""
    return write_bundle(folder / "resnet50-fpn.safetensors", fpn_spec(mpps, n_classes))
