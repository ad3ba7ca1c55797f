"""Description of a bundle whose network was trained elsewhere: nothing is fitted, and scales are joined by a pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wsi_magnet.config import CELL_SIDES_PX, DEFAULT_CELL_PX
from wsi_magnet.errors import ConfigError
from wsi_magnet.nets.classes import named_classes
from wsi_magnet.nets.spec import MOST_PATCH_PX, Argument, BundleSpec, patch_problem

HALO_PX = 64
"""Halo of networks that take patches of any size, as for the published ones."""

MEDIAN_PX = 5


def untrained_spec(
    *, classes: tuple[str, ...], mpps: tuple[float, ...], network_args: Mapping[str, Argument], **values: Any
) -> BundleSpec:
    """The description. A pool with equal weights, which needs no training, joins a finer scale's result with the
    coarser one.

    values: the other fields of a `BundleSpec` that are known. Raises BundleError.
    """
    steps = len(mpps) - 1
    return BundleSpec(
        classes=named_classes(classes),
        mpps=mpps,
        network_args=network_args,
        refiner="pool",
        refiner_of=(0,) * steps,
        halo_px=HALO_PX,
        median_px=MEDIAN_PX,
        select_above=(0.0,) * steps,
        refine_above=(0.0,) * steps,
        temperature=(1.0,) * (steps + 1),
        **values,
    )


def untrained_card(command: str, source: str, sha256: str) -> dict[str, str]:
    """The model card. source, sha256: name and hash of the file."""
    return {
        "made by": f"wsi-magnet bundle {command}",
        "made of": f"{source}, SHA-256 {sha256}",
        "licence": "that of the model",
        "not for": "diagnosis or any medical use",
        "held-out figures": "none; thresholds are not fitted, nothing is measured",
    }


def cell_for(input_px: int | None, scales: int) -> int:
    """Side of the largest cell round which a patch leaves an eighth of its side, or else anything that is allowed.

    input_px: the only side of patches that the network takes, None for any. scales: their number. Raises ConfigError
    with the nearest sides that fit.
    """
    if input_px is None:
        return DEFAULT_CELL_PX
    fitting = _fitting_cells(input_px, scales)
    if not fitting:
        near = [
            next((one for one in sides if _fitting_cells(one, scales)), None)
            for sides in (range(input_px, 0, -1), range(input_px, MOST_PATCH_PX + 1))
        ]
        known = " and ".join(f"{one}" for one in near if one)
        reason = patch_problem(input_px, min(CELL_SIDES_PX), scales, MEDIAN_PX)
        raise ConfigError(
            f"input_px {input_px} does not fit {scales} scales: {reason}; the nearest that fit: {known}",
            arguments=("input_px",),
        )
    roomy = [cell for cell in fitting if (input_px - cell) // 2 >= input_px // 8]
    return max(roomy or fitting)


def _fitting_cells(side_px: int, scales: int) -> list[int]:
    return [one for one in CELL_SIDES_PX if patch_problem(side_px, one, scales, MEDIAN_PX) is None]
