"""Plan of a run from slide, bundle and configuration; reads no pixels but those of the tissue map."""

from __future__ import annotations

from dataclasses import dataclass

from wsi_magnet.config import RunConfig
from wsi_magnet.errors import ConfigError
from wsi_magnet.methods.registry import course_of
from wsi_magnet.nets.spec import BundleSpec, single_scale
from wsi_magnet.planning.areas import Areas, restricted_to
from wsi_magnet.planning.plan import Plan, make_plan
from wsi_magnet.planning.tissue import TissueMap, darkness, find_tissue, map_scale
from wsi_magnet.scales import Ladder, build_ladder
from wsi_magnet.slides.types import SlideInfo, SlideReader


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """Slide, bundle, configuration, plan and tissue of a run before its first tile."""

    info: SlideInfo
    spec: BundleSpec
    config: RunConfig
    plan: Plan
    tissue: TissueMap
    notes: tuple[str, ...]
    """Notes for the user about this slide."""
    only_scale: int | None = None
    """Index of the bundle's scale that the method uses alone; `spec` has no other then."""
    areas: Areas | None = None
    """Areas that the configuration's files name; None where it names none."""


def ladder_of(info: SlideInfo, spec: BundleSpec) -> Ladder:
    """Scales at which a bundle segments a slide.

    Raises MissingMppError, and ConfigError for a slide that is too coarse for the bundle.
    """
    mpp_xy = info.require_mpp()
    try:
        return build_ladder(spec.mpps, mpp_xy, info.canvas)
    except ConfigError as error:
        raise ConfigError(f"{info.path}: {error}") from None


def upsampling_note(info: SlideInfo, ladder: Ladder) -> str:
    """A note for the user about a slide that is coarser than every scale of the bundle."""
    return (
        f"the slide's pixels are {max(info.require_mpp()):g} µm, coarser than every scale of the bundle: it is "
        f"upsampled to {ladder.scales[0].mpp:g} µm/px and the mask is a guess"
    )


def prepare(reader: SlideReader, spec: BundleSpec, config: RunConfig, areas: Areas | None = None) -> PreparedRun:
    """Find the tissue and lay out the scales; with `--no-tissue` only how dark the slide is, for an alarm.

    areas: those of the configuration's files.

    Raises MissingMppError, ConfigError as `ladder_of` and for an unknown method, BundleError where the bundle lacks
    what the method needs, SlideReadError.
    """
    info, course = reader.info, course_of(config.method)
    whole = ladder = ladder_of(info, spec)
    only_scale = {"all": None, "coarsest": 0, "finest": len(whole) - 1}[course.scales]
    if only_scale is not None:
        spec = single_scale(spec, only_scale)
        ladder = ladder_of(info, spec)
    if config.tissue:
        tissue = find_tissue(reader, canvas=info.canvas, mpp_xy=info.require_mpp())
        if areas is not None and areas.tissue is not None:
            tissue = tissue.replaced(areas.tissue_at(map_scale(info.canvas, info.require_mpp())))
    else:
        tissue = TissueMap.everything(info.canvas, darkness(reader, canvas=info.canvas, mpp_xy=info.require_mpp()))
    cells = [tissue.cells(scale, spec.cell_px) for scale in ladder.scales]
    plan = make_plan(
        info,
        ladder,
        cells,
        config,
        cell_px=spec.cell_px,
        least_halo_px=spec.halo_px,
        median_px=spec.median_px,
        patch_px=spec.patch_px,
        finest_halo_px=_radius_px(spec, config.method, ladder) if course.refines == "last" else 0,
    )
    if areas is not None and areas.restrict:
        plan = restricted_to(plan, areas)
    notes = _notes(info, ladder if course.scales == "coarsest" else whole, tissue)
    if course.refines == "last" and len(ladder) == 1:
        where = "the bundle has one scale" if len(spec.mpps) == 1 else "the slide has pixels for one scale"
        notes.append(f"{course.name} refines a coarser result, and {where} only: not refined")
    if areas is not None and areas.restrict and not plan.scales[-1].tissue.any() and tissue.tissue.any():
        notes.append("the regions hold no tissue: the mask is empty; pass --no-tissue to analyse all of them")
    return PreparedRun(info, spec, config, plan, tissue, tuple(notes), only_scale, areas)


def _radius_px(spec: BundleSpec, method: str, ladder: Ladder) -> int:
    """Receptive radius of a method that refines at the finest scale. Raises BundleError."""
    from wsi_magnet.methods.build import receptive_radius_px  # with torch

    return receptive_radius_px(spec, method, ladder.finest.mpp)


def _notes(info: SlideInfo, ladder: Ladder, tissue: TissueMap) -> list[str]:
    mpp = max(info.require_mpp())
    notes = []
    own = info.metadata_mpp_xy
    if own is not None and max(abs(o - m) / m for o, m in zip(own, info.require_mpp(), strict=True)) > 0.001:
        notes.append(f"{mpp:g} µm/px is used (--mpp) instead of {max(own):g} in the slide's metadata")
    if ladder.left_out_mpp:
        finer = ", ".join(f"{m:g}" for m in ladder.left_out_mpp)
        notes.append(f"the slide's pixels are {mpp:g} µm: the bundle's finer scales ({finer} µm/px) are left out")
    if ladder.upsampled:
        notes.append(upsampling_note(info, ladder))
    if not tissue.tissue.any():
        notes.append("no tissue found: the mask is empty; pass --no-tissue to analyse all of the slide")
    return notes
