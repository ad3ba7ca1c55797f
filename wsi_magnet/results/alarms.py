"""Alarms: reasons to distrust a result, decided from numbers alone.

An alarm is no error: the run did what it was to do, and its mask may still mean nothing. None changes a pixel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from wsi_magnet.nets.profile import TrainingProfile
from wsi_magnet.schema import to_json
from wsi_magnet.text import area_text, percent_text
from wsi_magnet.values import documented

Kind = Literal[
    "no tissue",
    "all background",
    "fluorescence",
    "upsampled",
    "unlike the training data",
    "not refined",
    "one class",
    "class never predicted",
    "class share",
    "uncertain",
    "preliminary",
    "refiners no better",
    "refinement switched off",
    "class without pixels",
    "small validation",
]
"""Kinds of alarms; the last four are of a training."""

LEAST_CHANGED = 0.001
"""Least share of the pixels that a scale must have changed to count as refined: other arithmetic alone changes up to a
thousandth of the labels (`resolve_precision`)."""

MOST_COARSER = 2
"""Most factor between the mask's pixels and the finest scale that changed it, without an alarm. A finest scale that
finds nothing to change is usual, since most borders are settled one scale before."""

LEAST_AREA_MM2 = 0.1
"""Least analysed area from which shares of classes are judged: two fields of view at 20x."""

ONE_CLASS_PERCENT = 99.0
"""Share of the analysed tissue from which a single class is an alarm, for bundles that do not know better. Networks
that see what they were not trained for often choose one class for all of it: a duodenum was 99.9 % gland."""

SHARE_MARGIN, SHARE_ODDS = 0.1, 4.0
"""Margin above the highest share of a class in a training image, and factor above its odds, share / (1 - share): the
few small images of a training are no measure of all slides. A class of at most half of an image may have four fifths
of a slide, one of at most a twentieth less than a fifth."""

ALWAYS_THERE = 0.02
"""Least share that a class must have had in every training image for its absence to be an alarm."""

UNCERTAIN_FACTOR, UNCERTAIN_MARGIN = 1.25, 0.02
"""Factor and margin above the most uncertain validation view."""

LEAST_COMPARED, LEAST_READ = 4, 0.5
"""Least number of blocks whose distances are judged at a scale, and least share of its cells that must have been read:
where `--refine` leaves most out, the others are the unusual ones."""

UNLIKE_FACTOR = 1.1
"""Factor above the mean distance of the most unusual held-out image. With a bundle trained on RINGS, test tiles of
RINGS reach 0.7 of it, skin 1.2, glands of the colon 1.4 and more, a duodenum 2.8 (`python -m benchmarks.alarms`)."""

DARK_SHARE = 0.5
"""Share of the slide that is nearly black, without any bright glass, from which it is taken for fluorescence."""


@documented
@dataclass(frozen=True, slots=True)
class Alarm:
    """A reason to distrust a result."""

    kind: str
    """A `Kind`, or another one of a newer version."""
    text: str
    """One sentence with the numbers, for people."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """The numbers by name."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values: dict[str, Any] = to_json(self)
        return values

    @staticmethod
    def all_of(summary: Mapping[str, Any]) -> tuple[Alarm, ...]:
        """Alarms in a summary or in a report of a training; none in those of older versions, or where damaged."""
        found = summary.get("alarms")
        return tuple(
            Alarm(str(one["kind"]), str(one["text"]), dict(values) if isinstance(values, Mapping) else {})
            for one in (found if isinstance(found, list) else [])
            if isinstance(one, Mapping) and {"kind", "text"} <= one.keys()
            for values in [one.get("values")]
        )


def kinds_text(alarms: Iterable[Alarm]) -> str:
    """The kinds of alarms, each once, for a cell of a table."""
    return "; ".join(dict.fromkeys(one.kind for one in alarms))


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideNumbers:
    """Numbers of a run besides its summary, from which alarms are decided."""

    slide_mpp: float
    coarsest_mpp: float
    upsampled: bool
    dark_share: float = 0.0
    """Nearly black share of a slide that has no bright glass; 0 for others."""
    refine: str = "all"
    """The run's `--refine`."""
    tissue_only: bool = True
    """False for a run with `--no-tissue`."""
    tissue_mm2: float = 0.0
    """Area of the tissue map's tissue; of all that is segmented with `--no-tissue`."""
    background: bool = False
    """True for a bundle with a background class, which may take tissue for background."""
    profile: TrainingProfile | None = None
    """The bundle's; None where it has none."""


def alarms_of(summary: Mapping[str, Any], numbers: SlideNumbers) -> tuple[Alarm, ...]:
    """Alarms of a finished run, the gravest first. summary: as `RunCounts.summary` returns it."""
    empty = () if summary["analysed_mm2"] else tuple(_empty(summary, numbers))
    if numbers.dark_share >= DARK_SHARE:
        return (_fluorescence(numbers.dark_share), *empty)
    if not summary["analysed_mm2"] and "all background" not in {one.kind for one in empty}:
        return empty  # the networks have seen nothing
    return (
        *empty,
        *_upsampled(numbers),
        *_unlike(summary["scales"], numbers.profile),
        *(() if _is_one_class(summary) else _not_refined(summary["scales"], numbers.refine)),
        *_classes(summary, numbers.profile),
        *_uncertain(summary["scales"], numbers.profile),
    )


def preliminary(mpp: float, finest_mpp: float) -> Alarm:
    """The alarm of a result that is not finished. mpp: of the mask so far; finest_mpp: of the finished one."""
    text = f"the run has not finished: this is its mask at {mpp:g} µm/px, and the finished one has {finest_mpp:g} µm/px"
    return Alarm("preliminary", text, {"mpp": mpp, "finest_mpp": finest_mpp})


def detail_mpp(scales: Sequence[Mapping[str, Any]]) -> float | None:
    """Microns per pixel of the finest scale that changed the mask; the coarsest if none did.

    scales: of a summary, coarse to fine. None where the summary does not say.
    """
    if not scales or any(one.get("changed_share") is None for one in scales[1:]):
        return None
    return min(
        (float(one["mpp"]) for one in scales[1:] if one["changed_share"] >= LEAST_CHANGED),
        default=float(scales[0]["mpp"]),
    )


def _fluorescence(dark_share: float) -> Alarm:
    return Alarm(
        "fluorescence",
        f"{percent_text(100 * dark_share)} of the slide is nearly black and there is no bright glass: this looks like "
        "fluorescence, and bundles are trained on stained tissue in bright field",
        {"dark_share": round(dark_share, 4)},
    )


def _empty(summary: Mapping[str, Any], numbers: SlideNumbers) -> Iterable[Alarm]:
    """The alarm of a mask without any class: nothing to look at was found, or the networks found nothing in it."""
    read_mm2 = round(min(numbers.tissue_mm2, summary["background_mm2"] - summary["not_looked_at_mm2"]), 6)
    if numbers.background and read_mm2 > 0:
        area = area_text(read_mm2) + (" of tissue" if numbers.tissue_only else "")
        text = (
            f"the networks took all of {area} for background: the mask is empty; check that the bundle suits this slide"
        )
        yield Alarm("all background", text, {"tissue_mm2": read_mm2})
    elif not summary["not_analysed_mm2"]:
        advice = " (--no-tissue analyses all of it)" if numbers.tissue_only else ""
        yield Alarm("no tissue", f"no stained tissue was found: the mask is empty{advice}")


def _upsampled(numbers: SlideNumbers) -> Iterable[Alarm]:
    if numbers.upsampled:
        factor = numbers.slide_mpp / numbers.coarsest_mpp
        yield Alarm(
            "upsampled",
            f"the slide's pixels are {numbers.slide_mpp:.4g} µm, {factor:.3g} times as coarse as the coarsest scale of "
            f"the bundle ({numbers.coarsest_mpp:g} µm/px): the mask is a guess",
            {"slide_mpp": numbers.slide_mpp, "coarsest_mpp": numbers.coarsest_mpp},
        )


def _unlike(scales: Sequence[Mapping[str, Any]], profile: TrainingProfile | None) -> Iterable[Alarm]:
    """At most one alarm, of the scale with the largest share."""
    found = []
    for index, (scale, usual) in enumerate(zip(scales, profile.distances if profile else (), strict=False)):
        mean, compared = scale.get("mean_distance"), scale.get("blocks_compared", 0)
        read = scale["cells_refined"] - scale["cells_unaffected"]
        enough = compared >= LEAST_COMPARED and (not index or read >= LEAST_READ * scale["cells"])
        if mean is not None and usual and enough and mean > UNLIKE_FACTOR * usual:
            found.append((mean / usual, float(scale["mpp"]), compared))
    if found:
        factor, mpp, compared = max(found)
        yield Alarm(
            "unlike the training data",
            f"in colour and structure the tissue lies {factor:.2g} times as far from the training data as the most "
            f"unusual image that the bundle was checked with (at {mpp:g} µm/px): the mask may mean nothing",
            {"factor": round(factor, 3), "mpp": mpp, "blocks": compared},
        )


def _not_refined(scales: Sequence[Mapping[str, Any]], refine: str) -> Iterable[Alarm]:
    detail = detail_mpp(scales)
    finest = float(scales[-1]["mpp"])
    if detail is None or detail <= MOST_COARSER * finest or not any(one["cells"] for one in scales[1:]):
        return
    finer = [one for one in scales[1:] if one["mpp"] < detail]
    read = sum(one["cells_refined"] - one["cells_unaffected"] for one in finer)
    changed = max(one["changed_share"] for one in finer)
    cure = "--refine all reads all cells" if refine != "all" and not read else "try a bundle with better refiners"
    yield Alarm(
        "not refined",
        f"this is a mask of {detail:g} µm/px: finer scales, up to {finest:g} µm/px, changed at most "
        f"{percent_text(100 * changed)} of the pixels ({read} of {sum(one['cells'] for one in finer)} cells were read "
        f"there); {cure}",
        {"detail_mpp": detail, "mask_mpp": finest, "changed_share": changed, "cells_read": read},
    )


def _is_one_class(summary: Mapping[str, Any]) -> bool:
    """True where one class has nearly all of the tissue: there is no border that a finer scale could move."""
    areas = [float(one["area_mm2"]) for one in summary["classes"] if one["value"]]
    return 100 * max(areas, default=0.0) >= ONE_CLASS_PERCENT * sum(areas)


def _classes(summary: Mapping[str, Any], profile: TrainingProfile | None) -> Iterable[Alarm]:
    tissue = {one["name"]: float(one["area_mm2"]) for one in summary["classes"] if one["value"]}
    total = sum(tissue.values())
    if total < LEAST_AREA_MM2 or len(tissue) < 2:
        return
    known = profile.class_shares if profile else {}
    for one in summary["classes"]:
        name, share = one["name"], float(one["area_mm2"]) / total
        least, most = known.get(str(one["value"]), (0.0, 1.0))
        if one["value"] and _is_unusual(share, most):
            yield _large_share(name, share, most)
        elif one["value"] and not share and least >= ALWAYS_THERE:
            share_text = percent_text(100 * least)
            text = f"no pixel of {area_text(total)} is {name!r}, and all training images had {share_text} or more"
            yield Alarm("class never predicted", text, {"class": name, "least_share": least})
    name, area = max(tissue.items(), key=lambda one: one[1])
    if not known and _is_one_class(summary):
        share = area / total
        text = f"{percent_text(100 * share)} of {area_text(total)} is {name!r}: check that the bundle suits this slide"
        yield Alarm("one class", text, {"class": name, "share": round(share, 4)})


def _is_unusual(share: float, most: float) -> bool:
    """True for a share far above the most that a training image had."""
    return share > most + SHARE_MARGIN and share * (1 - most) > SHARE_ODDS * most * (1 - share)


def _large_share(name: str, share: float, most: float) -> Alarm:
    found, known = percent_text(100 * share), percent_text(100 * most)
    text = f"{found} of the tissue is {name!r}, and no training image had more than {known}"
    return Alarm("class share", text, {"class": name, "share": round(share, 4), "most_share": most})


def _uncertain(scales: Sequence[Mapping[str, Any]], profile: TrainingProfile | None) -> Iterable[Alarm]:
    known = profile.uncertainty if profile else ()
    if len(known) < len(scales):
        return
    found, usual = float(scales[-1]["mean_uncertainty"]), known[len(scales) - 1]
    if found > UNCERTAIN_FACTOR * usual + UNCERTAIN_MARGIN:
        yield Alarm(
            "uncertain",
            f"the mean uncertainty is {found:.3f}, and was at most {usual:.3f} in the validation images",
            {"mean_uncertainty": round(found, 4), "usual": usual},
        )
