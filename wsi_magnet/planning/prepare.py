"""Plan of a run from slide, bundle and configuration; reads no pixels but those of the tissue map."""

from __future__ import annotations

from dataclasses import dataclass

from wsi_magnet.config import CELL_PX, RunConfig
from wsi_magnet.errors import ConfigError
from wsi_magnet.nets.spec import BundleSpec
from wsi_magnet.planning.plan import Plan, make_plan
from wsi_magnet.planning.tissue import TissueMap, darkness, find_tissue
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


def prepare(reader: SlideReader, spec: BundleSpec, config: RunConfig) -> PreparedRun:
    """Find the tissue and lay out the scales; with `--no-tissue` only how dark the slide is, for an alarm.

    Raises MissingMppError, ConfigError as `ladder_of`, SlideReadError.
    """
    info = reader.info
    ladder = ladder_of(info, spec)
    if config.tissue:
        tissue = find_tissue(reader, canvas=info.canvas, mpp_xy=info.require_mpp())
    else:
        tissue = TissueMap.everything(info.canvas, darkness(reader, canvas=info.canvas, mpp_xy=info.require_mpp()))
    cells = [tissue.cells(scale, CELL_PX) for scale in ladder.scales]
    plan = make_plan(info, ladder, cells, config, least_halo_px=spec.halo_px, median_px=spec.median_px)
    return PreparedRun(info, spec, config, plan, tissue, tuple(_notes(info, ladder, tissue)))


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
