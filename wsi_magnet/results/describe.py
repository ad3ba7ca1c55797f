"""Description of a prepared run, for run.json, and of its images, for OME-Zarr and OME-XML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from wsi_magnet.config import Precision
from wsi_magnet.labels import LabelClass, with_reserved
from wsi_magnet.methods.registry import course_of
from wsi_magnet.planning.prepare import PreparedRun
from wsi_magnet.results import ngff
from wsi_magnet.results.alarms import SlideNumbers
from wsi_magnet.results.folder import Products
from wsi_magnet.results.ome_xml import Product, image_of, ome_xml
from wsi_magnet.results.record import BundleRecord, RunRecord, ScaleRecord, SlideRecord, versions


def describe_run(
    prepared: PreparedRun, bundle_sha256: str, fingerprint: Mapping[str, str], precision: Precision
) -> RunRecord:
    """Record of a run before its first tile."""
    info, bounds = prepared.info, prepared.info.bounds
    slide = SlideRecord(
        path=info.path,
        identity=info.identity,
        vendor=info.vendor,
        reader=info.reader,
        size_wh=info.size.wh,
        bounds_xywh=(bounds.x0, bounds.y0, *bounds.size.wh),
        mpp_xy=info.require_mpp(),
        mpp_source=info.mpp_source,
        properties={k: v for k, v in info.properties.items() if len(v) < 1000},
    )
    return RunRecord(
        state="running",
        fingerprint=fingerprint,
        slide=slide,
        bundle=BundleRecord.of(prepared.spec, bundle_sha256),
        config=prepared.config,
        scales=tuple(
            ScaleRecord(f.scale.mpp, f.scale.size.wh, f.slide_level, f.mask_level) for f in prepared.plan.layouts
        ),
        notes=tuple(prepared.notes),
        software=versions(),
        precision=precision,
    )


def numbers_of(prepared: PreparedRun) -> SlideNumbers:
    """Numbers of a prepared run from which its alarms are decided."""
    finest, profile = prepared.plan.ladder.finest, prepared.spec.profile
    if profile is not None and course_of(prepared.config.method).refines == "last":
        profile = replace(profile, uncertainty=())  # of MagNet's masks: other methods are surer or less sure
    return SlideNumbers(
        slide_mpp=max(prepared.info.require_mpp()),
        coarsest_mpp=prepared.plan.ladder.scales[0].mpp,
        upsampled=prepared.plan.ladder.upsampled,
        dark_share=prepared.tissue.dark_share,
        refine=str(prepared.config.refine),
        tissue_only=prepared.config.tissue,
        tissue_mm2=prepared.tissue.share * finest.size.pixels * (finest.mpp / 1000) ** 2,
        background=prepared.spec.background_index is not None,
        profile=profile,
    )


def describe_images(
    prepared: PreparedRun, products: Products, classes: Sequence[LabelClass], finest_level: int
) -> dict[str, dict[str, Any]]:
    """OME-Zarr metadata of each image by product. finest_level: finest complete level of the mask."""
    info = prepared.info
    finest_mpp = prepared.plan.ladder.finest.mpp
    bounds_xy = (info.bounds.x0, info.bounds.y0)
    frames = [
        ngff.level_frame(str(level), finest_mpp * 2**level, info.require_mpp(), bounds_xy)
        for level in range(finest_level, len(products.sizes))
    ]
    kinds: dict[str, dict[str, Any]] = {
        "mask": {"image-label": ngff.image_label(with_reserved(classes), products.ngff)},
        "probabilities": {"omero": ngff.omero_channels(classes)},
        "uncertainty": {},
    }
    if not products.uncertainty:
        del kinds["uncertainty"]
    described = {}
    for name, extra in kinds.items():
        method = "2x2 majority" if name == "mask" else "2x2 mean"
        # Until the run is finished, coarser levels of the probabilities are those of the coarser scales.
        body = {
            "multiscales": [
                ngff.multiscales(name, frames, channels=name == "probabilities", method=method, version=products.ngff)
            ],
            **extra,
        }
        described[name] = ngff.attributes(products.ngff, body, _origin(prepared, finest_level))
    return described


def describe_ome(
    prepared: PreparedRun, products: Products, classes: Sequence[LabelClass], finest_level: int
) -> dict[str, str]:
    """OME-XML of each image by product. finest_level: as in `describe_images`."""
    mpp = prepared.plan.ladder.finest.mpp * 2**finest_level
    about = _origin(prepared, finest_level)
    names: tuple[Product, ...] = get_args(Product)
    return {
        name: ome_xml(image_of(name, products.sizes[finest_level], mpp, classes, about), tiff=False)
        for name in names
        if name != "uncertainty" or products.uncertainty
    }


def _origin(prepared: PreparedRun, finest_level: int) -> dict[str, Any]:
    """Provenance of an image, for its own metadata."""
    info = prepared.info
    return {
        "slide_identity": info.identity,
        "bundle": prepared.spec.name,
        "bounds_xy_level0_px": [info.bounds.x0, info.bounds.y0],
        "slide_mpp_xy": list(info.require_mpp()),
        "finest_complete_mpp": prepared.plan.ladder.finest.mpp * 2**finest_level,
        "version": versions()["wsi-magnet"],
    }
