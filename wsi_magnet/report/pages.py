"""Values of the report's pages for their templates: a page for one slide, and an index of several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from wsi_magnet.labels import NOT_ANALYSED, NOT_ANALYSED_CLASS
from wsi_magnet.report.colours import GREY, NOT_LOOKED_AT, Color, scale_color
from wsi_magnet.report.facts import Grading, SlideFacts, shown
from wsi_magnet.report.pictures import Pictures, codes_png
from wsi_magnet.report.render import data_uri, render
from wsi_magnet.results.alarms import kinds_text
from wsi_magnet.results.grading import NOISE_MM2, NOISE_SHARE, PATTERNS, SECONDARY_SHARE, Gleason
from wsi_magnet.results.record import BundleRecord
from wsi_magnet.text import area_text, counted, duration_text, percent_text, time_text

_MAX_FAILURES = 40
"""Lines of unreadable cells on a page; all are in run.json."""

_MAX_REGIONS = 200
"""Regions on a page; all are in summary.json."""

_MAX_CLASSES = 6
"""Columns of class shares in the index; with more classes the bars and the slides' own pages show them."""

_RULE = (
    "The primary pattern covers the largest area. The secondary is the highest grade above it, in whatever amount; "
    f"else the next one with at least {SECONDARY_SHARE:.0%} of the tumour; else the primary again (ISUP 2014 and 2019, "
    f"biopsies). A pattern below both {NOISE_SHARE:.1%} of the tumour and {NOISE_MM2:g} mm² counts as noise of the "
    "segmentation."
)

Pairs = list[tuple[str, str]]


def slide_page(facts: SlideFacts, pictures: Pictures, *, index: str | None = None) -> str:
    """HTML of a slide. index: relative address of the index page, if there is one."""
    page = {
        "index": index,
        "lede": _lede(facts),
        "preliminary": facts.source.running,
        "alarms": facts.source.alarms,
        "banners": _banners(facts, pictures),
        "key_figures": _key_figures(facts),
        **_figure(facts, pictures),
        "grade": _grade(facts.grading) if facts.grading else None,
        "regions": _regions(facts),
        "refinement": _refinement(facts),
        "cell_px": facts.record.bundle.cell_px,
        "unreadable": _unreadable(facts),
        "notes": facts.record.notes,
        "provenance": _provenance(facts),
    }
    return render("slide.html", "viewer.js", facts.source.name, page)


def grade_text(grade: Gleason) -> str:
    """A grade as "3 + 4 = 7, grade group 2"."""
    return f"{grade.primary} + {grade.secondary} = {grade.score}, grade group {grade.grade_group}"


def alt_text(facts: SlideFacts) -> str:
    """Description of the picture for people who do not see it."""
    parts = [f"{a.name} {percent_text(a.percent)}" for a in facts.areas if a.value and a.area_mm2]
    return f"Slide {facts.source.name} with its mask: {', '.join(parts) or 'nothing was segmented'}"


def _lede(facts: SlideFacts) -> str:
    made = f" on {time_text(facts.record.finished)}" if facts.record.finished else ""
    card = facts.record.bundle.description.get("card") or {}
    purpose = f", which was made for: {use}" if (use := card.get("intended use")) else ""
    return f"Mask at {facts.source.geometry.mpp:g} µm/px by the bundle {facts.record.bundle.name}{made}{purpose}."


def _banners(facts: SlideFacts, pictures: Pictures) -> list[str]:
    texts = []
    if facts.state == "stopped":
        texts.append("The run was stopped before its end; the same wsi-magnet command resumes it.")
    if facts.failures:
        texts.append(f"{counted(len(facts.failures), 'tissue cell')} could not be read; see below.")
    if pictures.slide is None:
        texts.append(f"Shown without its slide: {pictures.why_no_slide}.")
    if not facts.analysed_mm2 and not facts.source.alarms:
        texts.append("No tissue was analysed: the mask is empty.")
    return texts


def _key_figures(facts: SlideFacts) -> Pairs:
    figures = [("Analysed", area_text(facts.analysed_mm2))]
    if facts.grading is not None:
        grade = facts.grading.by_rule
        score = f"{grade.primary} + {grade.secondary} = {grade.score}" if grade else "none"
        figures.append(("Gleason, by area", score))
        figures.append(("ISUP grade group", str(grade.grade_group) if grade else "–"))
    largest = sorted((a for a in facts.areas if a.value), key=lambda a: -a.area_mm2)[: 2 if facts.grading else 3]
    figures += [(a.name, percent_text(a.percent)) for a in largest]
    figures.append(("Not analysed", area_text(facts.not_analysed_mm2) if facts.not_analysed_mm2 else "nothing"))
    return figures


def _figure(facts: SlideFacts, pictures: Pictures) -> dict[str, Any]:
    layers = [("classes", "Classes")]
    if pictures.uncertainty is not None:
        layers.append(("uncertainty", "Uncertainty"))
    if facts.refined_at.any():
        layers.append(("refined", "Refined at"))
    layers.append(("none", "Slide only" if pictures.slide is not None else "Nothing"))
    width, height = pictures.size.wh
    return {
        "alt": alt_text(facts),
        "paper": {"uri": data_uri(pictures.paper, "jpeg"), "width": width, "height": height},
        "layers": layers,
        "opacity": 45 if pictures.slide else 90,
        "classes": _class_rows(facts),
        "analysed_mm2": facts.analysed_mm2,
        "has_uncertainty": pictures.uncertainty is not None,
        "scale_key": _scale_key(facts),
        "caption": _caption(facts, pictures),
        "viewer": _viewer(facts, pictures),
    }


def _class_rows(facts: SlideFacts) -> list[dict[str, Any]]:
    drawn = {c.value: c.color for c in shown(facts)}
    rows = [
        {"value": a.value, "name": a.name, "color": drawn.get(a.value), "area_mm2": a.area_mm2, "percent": a.percent}
        for a in facts.areas
    ]
    if facts.not_analysed_mm2:
        not_analysed = {"area_mm2": facts.not_analysed_mm2, "percent": None}
        rows.append({"value": NOT_ANALYSED, "name": NOT_ANALYSED_CLASS.name, "color": GREY, **not_analysed})
    return rows


def _scale_key(facts: SlideFacts) -> list[tuple[str, Color]]:
    count = len(facts.scales)
    key = [(f"{s.mpp:g} µm/px", scale_color(i, count)) for i, s in enumerate(facts.scales) if s.refined]
    if (facts.refined_at == 0).any():
        key.append(("no tissue found: not looked at", NOT_LOOKED_AT))
    return [*key, ("not analysed", GREY)] if (facts.refined_at == NOT_ANALYSED).any() else key


def _caption(facts: SlideFacts, pictures: Pictures) -> str:
    width, height = (n * pictures.mpp / 1000 for n in pictures.size.wh)
    under = "its slide" if pictures.slide is not None else "no picture, because the slide was not there,"
    return (
        f"The mask of {facts.source.name} over {under} as segmented at {facts.source.geometry.mpp:g} µm/px and drawn "
        f"at {pictures.mpp:.3g} µm/px; {width:.3g} × {height:.3g} mm. Areas are counted on the mask itself, not on "
        "this picture."
    )


def _viewer(facts: SlideFacts, pictures: Pictures) -> dict[str, object]:
    """Values that viewer.js reads."""
    finest = facts.record.scales[-1].mpp
    colors: dict[int, Sequence[int]] = {c.value: c.color for c in shown(facts)}
    names = {c.value: c.name for c in facts.source.classes}
    scales = {i + 1: scale_color(i, len(facts.scales)) for i in range(len(facts.scales))}
    return {
        "width": pictures.size.width,
        "height": pictures.size.height,
        "mpp": pictures.mpp,
        "slide": data_uri(pictures.slide, "jpeg") if pictures.slide is not None else None,
        "labels": data_uri(pictures.labels, "png"),
        "uncertainty": data_uri(pictures.uncertainty, "jpeg") if pictures.uncertainty is not None else None,
        "refined": data_uri(codes_png(facts.refined_at), "png"),
        "cell": facts.record.bundle.cell_px * finest / pictures.mpp,
        "colors": {**colors, NOT_ANALYSED: GREY},
        "names": {**names, NOT_ANALYSED: NOT_ANALYSED_CLASS.name},
        "scales": {0: NOT_LOOKED_AT, **scales, NOT_ANALYSED: GREY},
    }


def _grade(grading: Grading) -> dict[str, Any]:
    grade, free = grading.by_rule, grading.without_floor
    shares = grade.percent_by_pattern if grade else {}
    return {
        "text": grade_text(grade) if grade else None,
        "patterns": [(p, grade.tumour_mm2 * s / 100, s) for p in PATTERNS if grade and (s := shares.get(p, 0.0))],
        "without_floor": grade_text(free) if free else None,
        "rule": _RULE,
    }


def _refinement(facts: SlideFacts) -> list[dict[str, Any]]:
    """Rows of the scales that were reached; none where no cell was."""
    if not any(scale.cells for scale in facts.scales):
        return []
    return [
        {
            "color": scale_color(i, len(facts.scales)),
            "mpp": f"{s.mpp:g}",
            "cells": f"{s.cells:,}",
            "refined": f"{s.refined:,}",
            "share": percent_text(s.percent) if s.cells else "–",
            "changed": "–" if s.changed_percent is None else percent_text(s.changed_percent),
            "state": "complete" if s.complete else facts.state if s.cells else "not started",
        }
        for i, s in enumerate(facts.scales)
        if s.cells or not s.complete
    ]


def _regions(facts: SlideFacts) -> dict[str, Any] | None:
    """Table of the regions to which the run was restricted; None without any, and before they are counted."""
    regions = facts.source.summary.get("regions") or ()
    if not regions:
        return None
    return {
        "classes": [one["name"] for one in regions[0]["classes"]],
        "rows": [
            {
                "name": one["name"],
                "class": one["class"],
                "mm2": one["region_mm2"],
                "percents": [share["percent"] for share in one["classes"]],
                "grade": _region_grade(one["gleason"]),
            }
            for one in regions[:_MAX_REGIONS]
        ],
        "has_grades": any(one["gleason"] for one in regions),
        "more": f"{len(regions) - _MAX_REGIONS:,}" if len(regions) > _MAX_REGIONS else None,
    }


def _region_grade(grade: Mapping[str, Any] | None) -> str:
    return f"{grade['primary']} + {grade['secondary']} = {grade['score']}" if grade else "–"


def _unreadable(facts: SlideFacts) -> dict[str, Any] | None:
    if not facts.failures and not facts.not_analysed_mm2:
        return None
    text = f"{counted(len(facts.failures), 'tissue cell')} could not be read at a scale."
    if facts.not_analysed_mm2:
        text += (
            f" {area_text(facts.not_analysed_mm2)} could not be read at any scale; it is grey in the figure and in no "
            "share."
        )
    more = max(0, len(facts.failures) - _MAX_FAILURES)
    return {"text": text, "lines": facts.failures[:_MAX_FAILURES], "more": f"{more:,}" if more else None}


def _provenance(facts: SlideFacts) -> list[tuple[str, Pairs]]:
    record = facts.record
    return [
        ("Slide", _slide_pairs(facts)),
        ("Run", _run_pairs(facts)),
        ("Bundle", _bundle_pairs(record.bundle)),
        ("Software", list(record.software.items())),
    ]


def _code(text: str) -> Markup:
    return Markup("<code>{}</code>").format(text)


def _slide_pairs(facts: SlideFacts) -> Pairs:
    slide = facts.record.slide
    x, y, width, height = slide.bounds_xywh
    mpp = sorted({f"{m:.4g}" for m in slide.mpp_xy})
    pairs = [
        ("file", facts.source.name),
        ("identity", _code(facts.source.identity)),
        ("size", f"{slide.size_wh[0]:,} × {slide.size_wh[1]:,} pixels"),
        ("microns per pixel", f"{' × '.join(mpp)} (from {slide.mpp_source})"),
        ("format", f"{slide.vendor}, read with {slide.reader}"),
    ]
    if (width, height) != slide.size_wh:
        pairs.insert(3, ("bounds", f"{width:,} × {height:,} pixels at ({x:,}, {y:,})"))
    return pairs


def _run_pairs(facts: SlideFacts) -> Pairs:
    record, config = facts.record, facts.record.config
    pairs = [
        ("result", facts.source.folder.resolve().name),
        ("state", facts.state),
        ("finished", time_text(record.finished or "not yet")),
        ("scales", ", ".join(f"{s.mpp:g}" for s in facts.scales) + " µm/px"),
        ("method", config.method),
        ("refine", str(config.refine)),
        ("tissue only", "yes" if config.tissue else "no"),
        *((name.replace("_", " "), Path(path).name) for name, path in config.area_files.items()),
        ("also kept", ", ".join(config.kept) or "nothing"),
        ("OME-Zarr, tile", f"{config.ngff}, {config.tile_px} px"),
        ("precision, batch", f"{record.precision or config.precision}, {config.batch_size or 'auto'}"),
    ]
    if record.seconds_since_start is not None:
        pairs.insert(3, ("time since start", duration_text(record.seconds_since_start)))
    return pairs


def _bundle_pairs(bundle: BundleRecord) -> Pairs:
    description = bundle.description
    return [
        ("name", bundle.name),
        ("SHA-256", _code(bundle.sha256)),
        ("network", f"{description.get('network')}, refined by {description.get('refiner')}"),
        *((str(name), str(text)) for name, text in (description.get("card") or {}).items()),
    ]


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the index; small, so that a cohort may be large."""

    href: str
    name: str
    result: str
    """Name of the result folder, which differs where slides share a name."""
    state: str
    alarms: str
    """Kinds of its alarms; "" without any."""
    analysed_mm2: float
    not_analysed_mm2: float
    shares: dict[str, float]
    """Percent of the analysed area by class."""
    colors: dict[str, Color]
    grade: tuple[int, int, int] | None
    """Primary, secondary, ISUP grade group."""
    graded: bool
    """True if the bundle has classes of Gleason patterns."""
    refined_percent: float
    """Refined share of the tissue cells of the finest scale."""
    alt: str
    thumbnail: bytes

    @property
    def stem(self) -> str:
        """The slide's name without its suffix."""
        return Path(self.name).stem

    @property
    def parts(self) -> list[tuple[float, Color]]:
        """Share and colour of each class."""
        return [(share, self.colors.get(name, GREY)) for name, share in self.shares.items()]


def entry_of(facts: SlideFacts, href: str, thumbnail: bytes) -> Entry:
    """The row of a slide."""
    grade = facts.grading.by_rule if facts.grading else None
    return Entry(
        href,
        facts.source.name,
        facts.source.folder.resolve().name,
        facts.state,
        kinds_text(facts.source.alarms),
        facts.analysed_mm2,
        facts.not_analysed_mm2,
        {a.name: a.percent for a in facts.areas if a.value},
        {c.name: c.color for c in shown(facts)},
        (grade.primary, grade.secondary, grade.grade_group) if grade else None,
        facts.grading is not None,
        facts.scales[-1].percent if facts.scales else 0.0,
        alt_text(facts),
        thumbnail,
    )


@dataclass(frozen=True, slots=True)
class Unsegmented:
    """A slide without a result that can be shown: it failed, waits, or has just been started."""

    name: str
    state: str
    reason: str = ""
    command: str = ""
    """The shell command that repeats or resumes it."""


def index_page(entries: Sequence[Entry], others: Sequence[Unsegmented] = ()) -> str:
    """HTML of the index. others: slides that have no page."""
    classes: dict[str, Color] = {}
    for entry in entries:
        classes.update({name: color for name, color in entry.colors.items() if name not in classes})
    page = {
        "lede": _index_lede(entries, others),
        "classes": classes,
        "columns": list(classes) if len(classes) <= _MAX_CLASSES else [],
        "graded": any(entry.graded for entry in entries),
        "entries": entries,
        "others": others,
    }
    return render("index.html", "index.js", counted(len(entries) + len(others), "slide"), page)


def _index_lede(entries: Sequence[Entry], others: Sequence[Unsegmented]) -> str:
    states = Counter([*(entry.state for entry in entries), *(one.state for one in others)])
    counts = ", ".join(f"{number} {state}" for state, number in states.items())
    text = f"{area_text(sum(e.analysed_mm2 for e in entries))} analysed; {counts}."
    if alarmed := sum(bool(e.alarms) for e in entries):
        text += f" Alarms: {alarmed} of {counted(len(entries), 'slide')}."
    groups = Counter(entry.grade[2] for entry in entries if entry.grade)
    if groups:
        parts = [f"{group} ({counted(n, 'slide')})" for group, n in sorted(groups.items())]
        text += f" ISUP grade groups by area: {', '.join(parts)}."
    return text
