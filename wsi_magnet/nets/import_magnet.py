"""Import of the published program's checkpoints as a bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from wsi_magnet.config import DEFAULT_CELL_PX
from wsi_magnet.errors import BundleError, ConfigError
from wsi_magnet.nets.bundle import save_bundle
from wsi_magnet.nets.checkpoint import load_exactly, read_checkpoint
from wsi_magnet.nets.classes import named_classes, unnamed_classes
from wsi_magnet.nets.registry import build_network, build_refiner, network_info
from wsi_magnet.nets.spec import BundleSpec, ClassInfo, check_output
from wsi_magnet.scales import check_mpps

PUBLISHED = ("fpn", "psp", "hrnet18+ocr")
"""Networks of the published checkpoints."""

REFINER_LAST_LAYER = "seg_conv.weight"

COARSEST_MPP = 2.0
DEFAULT_STEPS = 3
"""Steps of the default scales 2, 1, 0.5 and 0.25 µm/px, as many as in the published Gleason set."""

HALO_PX = 64
"""Two of the deepest features (stride 32) on each side, so that the zero padding of convolutions at the patch's edge is
not next to the cell's own features. No halo is exact: pooling (psp) and attention (hrnet18+ocr) see the whole patch."""

MEDIAN_PX = 5


def import_magnet(
    network: str,
    backbone_path: str | Path,
    refiner_paths: Sequence[str | Path],
    output: str | Path,
    *,
    mpps: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    classes: Sequence[ClassInfo] | None = None,
    median_px: int = MEDIAN_PX,
    cell_px: int = DEFAULT_CELL_PX,
    overwrite: bool = False,
) -> BundleSpec:
    """Make a bundle from published MagNet checkpoints, which are read without running their code.

    network: "fpn", "psp" or "hrnet18+ocr". refiner_paths: one for all steps between scales, or one per step, coarse to
    fine. mpps: microns per pixel of the scales, coarse to fine. class_names, or classes with their values and colours:
    in the order of the network's channels. median_px: side of the query score's median. cell_px: side of the cells.
    Nothing is written unless everything fits. Raises BundleError, in one line, for files that do not fit, ConfigError
    for scales that do not halve, StoreError where the output exists, unless overwrite is True.
    """
    check_output(output, overwrite=overwrite)
    if network not in PUBLISHED:
        raise BundleError(f"unknown published backbone {network!r}; available are {', '.join(PUBLISHED)}")
    scales = _scales(mpps, len(refiner_paths))
    backbone, n_classes = _load(
        backbone_path, network, f"{network_info(network).head}.weight", partial(build_network, network)
    )
    refiners = []
    for path in refiner_paths:
        refiner, found = _load(path, "refiner", REFINER_LAST_LAYER, partial(build_refiner, "magnet"))
        if found != n_classes:
            raise BundleError(f"{path} refines {found} classes, but {backbone_path} has {n_classes}; they do not match")
        refiners.append(refiner)
    sources = [Path(path).name for path in (backbone_path, *refiner_paths)]
    described = _describe(network, _classes(class_names, classes, n_classes), scales, sources)
    spec = replace(described, median_px=median_px, cell_px=cell_px)
    save_bundle(output, spec, backbone, refiners)
    return spec


def _load(path: str | Path, role: str, last_layer: str, make: Callable[[int], nn.Module]) -> tuple[nn.Module, int]:
    """The network of a checkpoint, and its number of classes."""
    state = read_checkpoint(path)
    # A checkpoint of another network may lack the last layer; then any number will do, since the rest will not fit.
    n_classes = next(iter(state[last_layer].shape), 1) if last_layer in state else 1
    with torch.device("meta"):
        network = make(n_classes)
    load_exactly(network, state, f"{path} as {role}")
    return network, n_classes


def _classes(names: Sequence[str] | None, classes: Sequence[ClassInfo] | None, count: int) -> tuple[ClassInfo, ...]:
    if classes is not None:
        names = [one.name for one in classes]
    if names is None:
        return unnamed_classes(count)
    if len(names) != count:
        raise BundleError(f"{len(names)} class names for {count} classes; give one per class, in the network's order")
    return named_classes(names) if classes is None else tuple(classes)


def _scales(mpps: Sequence[float] | None, n_refiners: int) -> tuple[float, ...]:
    """The given or default scales, checked against the number of refiners; one refiner serves any number of steps."""
    if n_refiners == 0:
        raise BundleError("no refiner given; give one for all steps between scales, or one per step")
    if mpps is None:
        steps = DEFAULT_STEPS if n_refiners == 1 else n_refiners
        return tuple(COARSEST_MPP / 2**i for i in range(steps + 1))
    scales = check_mpps(mpps)
    if len(scales) < 2:
        raise ConfigError(f"{len(scales)} scale; MagNet refines from one to the next and needs at least 2")
    if n_refiners not in (1, len(scales) - 1):
        raise BundleError(f"{n_refiners} refiners for {len(scales)} scales; give 1 or {len(scales) - 1}")
    return scales


def _describe(
    network: str, classes: tuple[ClassInfo, ...], mpps: tuple[float, ...], sources: Sequence[str]
) -> BundleSpec:
    """sources: names of the files, the backbone's first."""
    steps = len(mpps) - 1
    one_refiner = len(sources) == 2
    return BundleSpec(
        name=Path(sources[0]).stem,
        network=network,
        classes=classes,
        mpps=mpps,
        refiner_of=(0,) * steps if one_refiner else tuple(range(steps)),
        channel_order="fine_first",  # the published weights fit the test program's order, not the training program's
        halo_px=HALO_PX,
        median_px=MEDIAN_PX,
        # Without slides to fit thresholds on, all are 0: every pixel of a refined cell is overwritten, the paper's
        # k = 1, and every cell is refined.
        select_above=(0.0,) * steps,
        refine_above=(0.0,) * steps,
        temperature=(1.0,) * len(mpps),
        card={
            "made by": "wsi-magnet bundle import-magnet",
            "made of": ", ".join(sources),
            "licence": "that of the checkpoints",
            "intended use": "research with the published MagNet weights",
            "not for": "diagnosis or any medical use",
            "held-out figures": "none; thresholds are not fitted, scales are not measured",
        },
    )
