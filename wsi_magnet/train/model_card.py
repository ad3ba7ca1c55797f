"""Specification and model card of a trained bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from wsi_magnet.nets.spec import BundleSpec
from wsi_magnet.train.calibrate import Fitted
from wsi_magnet.train.config import TrainingConfig


def describe_bundle(
    config: TrainingConfig,
    network: Mapping[str, Any],
    temperatures: tuple[float, ...],
    fitted: Fitted,
    report: Mapping[str, Any],
) -> BundleSpec:
    """Specification of a bundle. network: the fields that concern the backbone. Its card is the configuration's, with
    facts of the training added.
    """
    steps = len(config.mpps) - 1
    return BundleSpec(
        name=config.name,
        **network,
        refiner=config.refiners.module,
        classes=config.class_infos(),
        mpps=config.mpps,
        refiner_of=(0,) * steps if config.refiners.shared else tuple(range(steps)),
        channel_order="fine_first",
        cell_px=config.cell_px,
        halo_px=config.halo_px,
        median_px=config.median_px,
        select_above=fitted.select_above,
        select_width=fitted.select_width if any(fitted.select_width) else (),
        refine_above=fitted.refine_above,
        temperature=temperatures,
        methods={name: one["parameters"] for name, one in report.get("methods", {}).items()},
        card={**config.card, **_facts(config, report)},
    )


def with_methods(given: BundleSpec, config: TrainingConfig, report: Mapping[str, Any]) -> BundleSpec:
    """Specification of a bundle that has other methods besides its own; its card has the facts of both."""
    methods = {name: one["parameters"] for name, one in report["methods"].items()}
    heads = {"heads of other methods trained on": _extent(report["rows"]["train"], report["groups"]["train"])}
    return replace(
        given,
        name=config.name,
        methods={**given.methods, **methods},
        card={**given.card, **config.card, **heads, **_method_facts(report)},
    )


def _facts(config: TrainingConfig, report: Mapping[str, Any]) -> dict[str, str]:
    rows, groups = report["rows"], report["groups"]
    after = ", ".join(
        f"{mpp:g} µm/px {100 * miou:.1f}"
        for mpp, miou in zip(config.mpps, report["validation_miou_after_scale"], strict=True)
    )
    return {
        "trained on": _extent(rows["train"], groups["train"]),
        "validated on": _extent(rows["validation"], groups["validation"])
        + "; best steps, temperatures and thresholds were chosen on these",
        "validation mIoU in percent, after each scale": after,
        **_method_facts(report),
        **report["encoder"],
        **_start_facts(report.get("from")),
        "made by": "wsi-magnet train",
    }


def _start_facts(start: Mapping[str, Any] | None) -> dict[str, str]:
    """The bundle whose weights the training began with."""
    if start is None:
        return {}
    fresh = f"; heads that began afresh: {', '.join(start['fresh_heads'])}" if start["fresh_heads"] else ""
    return {"fine-tuned from": f"{start['name']}, SHA-256 {start['sha256']}{fresh}"}


def _method_facts(report: Mapping[str, Any]) -> dict[str, str]:
    """Figures of other methods, beside those of Downsample and MagNet."""
    mious = {name: one["validation_miou"] for name, one in report.get("methods", {}).items()}
    if not mious:
        return {}
    listed = ", ".join(f"{name} {100 * miou:.1f}" for name, miou in mious.items())
    upsampled, magnet = (100 * one for one in (report["upsampled_miou"], report["validation_miou_after_scale"][-1]))
    return {
        "validation mIoU in percent, of other methods": f"{listed}; Downsample {upsampled:.1f}, MagNet {magnet:.1f}"
    }


def _extent(rows: list[str], groups: list[str]) -> str:
    images = "1 image" if len(rows) == 1 else f"{len(rows)} images"
    return f"{images} of {'1 group' if len(groups) == 1 else f'{len(groups)} groups'}: {_some(groups)}"


def _some(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
