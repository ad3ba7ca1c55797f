"""From a slide, a bundle and a configuration to a plan: the only pixels read are those of the tissue thumbnail."""

from __future__ import annotations

from dataclasses import dataclass

from wsi_magnet.config import CELL_PX, RunConfig
from wsi_magnet.nets.spec import BundleSpec
from wsi_magnet.planning.plan import Plan, make_plan
from wsi_magnet.planning.tissue import TissueMap, find_tissue
from wsi_magnet.scales import Ladder, build_ladder
from wsi_magnet.slides.types import SlideInfo, SlideReader


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """All that is known before anything is computed."""

    info: SlideInfo
    spec: BundleSpec
    config: RunConfig
    plan: Plan
    tissue: TissueMap
    notes: tuple[str, ...]
    """What the user should know about this slide."""


def ladder_of(info: SlideInfo, spec: BundleSpec) -> Ladder:
    """The scales at which a bundle would segment a slide. Raises MissingMppError."""
    return build_ladder(spec.mpps, info.require_mpp(), info.canvas)


def prepare(reader: SlideReader, spec: BundleSpec, config: RunConfig) -> PreparedRun:
    """Find the tissue and lay out the passes. Raises MissingMppError, SlideReadError."""
    info = reader.info
    ladder = ladder_of(info, spec)
    if config.tissue:
        tissue = find_tissue(reader, canvas=info.canvas, mpp_xy=info.require_mpp())
    else:
        tissue = TissueMap.everything(info.canvas)
    cells = [tissue.cells(scale, CELL_PX) for scale in ladder.scales]
    plan = make_plan(info, ladder, cells, config, least_halo_px=spec.halo_px, median_px=spec.median_px)
    return PreparedRun(info, spec, config, plan, tissue, tuple(_notes(info, ladder, tissue)))


def _notes(info: SlideInfo, ladder: Ladder, tissue: TissueMap) -> list[str]:
    mpp = max(info.require_mpp())
    notes = []
    said = info.said_mpp_xy
    if said is not None and max(abs(s - m) / m for s, m in zip(said, info.require_mpp(), strict=True)) > 0.001:
        notes.append(f"the slide says {max(said):g} µm/px and is taken as {mpp:g} (--mpp)")
    if ladder.left_out_mpp:
        finer = ", ".join(f"{m:g}" for m in ladder.left_out_mpp)
        notes.append(f"the slide's pixels are {mpp:g} µm: the bundle's finer scales ({finer} µm/px) are left out")
    if ladder.upsampled:
        coarsest = ladder.scales[0].mpp
        notes.append(
            f"the slide's pixels are {mpp:g} µm, coarser than every scale of the bundle: "
            f"it is upsampled to {coarsest:g} µm/px and the mask is a guess"
        )
    if not tissue.tissue.any():
        notes.append("no tissue found: the mask is empty; pass --no-tissue to analyse all of the slide")
    return notes
