"""What a page says below its figure: grade, where the run looked closely, what it did not see, provenance."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from wsi_magnet._version import __version__
from wsi_magnet.report import words
from wsi_magnet.report.colours import scale_color, swatch
from wsi_magnet.report.facts import Grading, SlideFacts
from wsi_magnet.report.markup import Child, Html, element, join, table
from wsi_magnet.results.grading import NOISE_MM2, NOISE_SHARE, PATTERNS, SECONDARY_SHARE, Gleason
from wsi_magnet.results.record import BundleRecord

NOT_FOR_DIAGNOSIS = "Not for diagnosis."

_MOST_FAILURES = 40
"""Lines that a page lists; all are in run.json."""


def grade_text(grade: Gleason) -> str:
    """As "3 + 4 = 7, grade group 2"."""
    return f"{grade.primary} + {grade.secondary} = {grade.score}, grade group {grade.grade_group}"


def section(title: str, *children: Child) -> Html:
    """A part of the page with its heading."""
    return element("section", element("h2", title), *children)


def grade_section(grading: Grading | None) -> Html | None:
    """Gleason score and ISUP grade group by area, with the rule and what its noise floor does."""
    if grading is None:
        return None
    grade, free = grading.by_rule, grading.without_floor
    if grade is None:
        said = "No Gleason pattern was found" + (" above the noise floor." if free else ".")
        lines = [element("p", said)]
    else:
        shares = [
            [f"Gleason {p}", words.area(grade.tumour_mm2 * share / 100), words.percent(share)]
            for p in PATTERNS
            if (share := grade.percent_by_pattern.get(p, 0.0))
        ]
        lines = [
            element("p", "Gleason ", element("strong", grade_text(grade)), class_="grade"),
            table(("Pattern", "Area", "Of the tumour"), shares, class_="plain"),
        ]
    return section("Gleason grade by area", *lines, _rule(), _sensitivity(grade, free))


def _rule() -> Html:
    return element(
        "p",
        "The primary pattern covers the largest area. The secondary is the highest grade above it, in whatever amount; "
        f"else the next one with at least {SECONDARY_SHARE:.0%} of the tumour; else the primary again (ISUP 2014 and "
        f"2019, biopsies). A pattern below both {NOISE_SHARE:.1%} of the tumour and {NOISE_MM2:g} mm² is taken for "
        "noise of the segmentation.",
        class_="hint",
    )


def _sensitivity(grade: Gleason | None, free: Gleason | None) -> Html | None:
    if free is None:
        return None
    if grade is not None and (grade.primary, grade.secondary) == (free.primary, free.secondary):
        return element("p", "Without this noise floor the grade would be the same.")
    return element("p", "Without this noise floor it would be ", element("strong", grade_text(free)), ".")


def refinement_section(facts: SlideFacts) -> Html | None:
    """How much of the tissue was looked at, at each scale."""
    used = [(i, s) for i, s in enumerate(facts.scales) if s.cells or not s.complete]
    if not any(s.cells for _, s in used):
        return None
    rows = [
        (
            join([swatch(scale_color(i, len(facts.scales))), f" {s.mpp:g} µm/px"]),
            f"{s.cells:,}",
            f"{s.refined:,}",
            words.percent(s.percent) if s.cells else "–",
            "complete" if s.complete else "under way" if s.cells else "not begun",
        )
        for i, s in used
    ]
    head = ("Scale", "Squares of tissue", "Refined", "Share", "State")
    text = (
        "A square is 512 pixels of its scale. Where a square was not refined, the mask takes over the result of the "
        "coarser scale."
    )
    return section("Where it looked closely", table(head, rows, class_="plain"), element("p", text, class_="hint"))


def failures_section(facts: SlideFacts) -> Html | None:
    """Tissue that is not in the result, and why."""
    if not facts.failures and not facts.not_analysed_mm2:
        return None
    said = (
        f"{words.area(facts.not_analysed_mm2)} of tissue could not be analysed; it is grey in the figure and in no "
        f"share. {words.count(len(facts.failures), 'square')} failed:"
    )
    listed = [element("li", line) for line in facts.failures[:_MOST_FAILURES]]
    if (more := len(facts.failures) - len(listed)) > 0:
        listed.append(element("li", f"and {more:,} more, in run.json"))
    return section("Not analysed", element("p", said), element("ul", *listed, class_="failures"))


def notes_section(facts: SlideFacts) -> Html | None:
    """What the run had to say."""
    notes = facts.record.notes
    return section("Notes", element("ul", *(element("li", str(n)) for n in notes))) if notes else None


def provenance_section(facts: SlideFacts) -> Html:
    """Where all of it comes from."""
    record = facts.record
    groups = (
        ("Slide", _slide(facts)),
        ("Run", _run(facts)),
        ("Bundle", _bundle(record.bundle)),
        ("Software", record.software.items()),
    )
    return section(
        "Provenance",
        element("div", *(_definitions(title, pairs) for title, pairs in groups), class_="provenance"),
    )


def footer(facts_or_text: str) -> Html:
    """The last lines of every page."""
    made = words.when(datetime.now(UTC).isoformat(timespec="minutes"))
    return element(
        "footer",
        element("p", element("strong", NOT_FOR_DIAGNOSIS), " ", facts_or_text),
        element("p", f"Page made by wsi-magnet {__version__} on {made}.", class_="hint"),
    )


def _definitions(title: str, pairs: Iterable[tuple[str, Child]]) -> Html:
    lines = [element("div", element("dt", name), element("dd", value)) for name, value in pairs]
    return element("div", element("h3", title), element("dl", *lines))


def _slide(facts: SlideFacts) -> list[tuple[str, Child]]:
    slide = facts.record.slide
    x, y, width, height = slide.bounds_xywh
    mpp = sorted({f"{m:.4g}" for m in slide.mpp_xy})
    whole = (width, height) == slide.size_wh
    pairs: list[tuple[str, Child]] = [
        ("file", facts.source.name),
        ("identity", element("code", facts.source.identity)),
        ("size", f"{slide.size_wh[0]:,} × {slide.size_wh[1]:,} pixels"),
        ("microns per pixel", f"{' × '.join(mpp)} (from {slide.mpp_source})"),
        ("format", f"{slide.vendor}, read with {slide.reader}"),
    ]
    if not whole:
        pairs.insert(3, ("bounds", f"{width:,} × {height:,} pixels at ({x:,}, {y:,})"))
    return pairs


def _run(facts: SlideFacts) -> list[tuple[str, Child]]:
    record, config = facts.record, facts.record.config
    pairs: list[tuple[str, Child]] = [
        ("result", facts.source.folder.resolve().name),
        ("state", facts.state),
        ("finished", words.when(record.finished or "not yet")),
        ("scales", ", ".join(f"{s.mpp:g}" for s in facts.scales) + " µm/px"),
        ("refine", str(config.refine)),
        ("tissue only", "yes" if config.tissue else "no"),
        ("kept besides", ", ".join(config.kept) or "nothing"),
        ("OME-Zarr, tile", f"{config.ngff}, {config.tile_px} px"),
        ("precision, batch", f"{record.precision or config.precision}, {config.batch_size or 'auto'}"),
    ]
    if record.seconds_since_start is not None:
        pairs.insert(3, ("time since start", words.duration(record.seconds_since_start)))
    return pairs


def _bundle(bundle: BundleRecord) -> list[tuple[str, Child]]:
    told = bundle.description
    return [
        ("name", bundle.name),
        ("SHA-256", element("code", bundle.sha256)),
        ("network", f"{told.get('network')}, refined by {told.get('refiner')}"),
        *((str(name), str(text)) for name, text in (told.get("card") or {}).items()),
    ]
