"""The page of one slide: what there is to see first, what to read below it."""

from __future__ import annotations

from wsi_magnet.report import words
from wsi_magnet.report.facts import SlideFacts
from wsi_magnet.report.figure import figure
from wsi_magnet.report.markup import Html, Page, document, element, join
from wsi_magnet.report.pictures import Pictures
from wsi_magnet.report.sections import (
    NOT_FOR_DIAGNOSIS,
    failures_section,
    footer,
    grade_section,
    notes_section,
    provenance_section,
    refinement_section,
)


def slide_page(facts: SlideFacts, pictures: Pictures, *, index: str | None = None) -> str:
    """HTML of a slide. index: address of the page that lists it with others, from this one."""
    body = element(
        "main",
        _masthead(facts, index),
        *_banners(facts, pictures),
        _key_figures(facts),
        figure(facts, pictures),
        grade_section(facts.grading),
        refinement_section(facts),
        failures_section(facts),
        notes_section(facts),
        provenance_section(facts),
        footer("Areas and grades are a network's; nobody has checked them for this slide."),
    )
    return document(Page(f"{facts.source.name}: wsi-magnet report", body, ("page.css",), ("viewer.js",)))


def _masthead(facts: SlideFacts, index: str | None) -> Html:
    back = element("a", "All slides", href=index) if index else None
    made = f" on {words.when(facts.record.finished)}" if facts.record.finished else ""
    return element(
        "header",
        element("p", "Segmentation report", join([" · ", back]) if back else None, class_="kicker"),
        element("p", NOT_FOR_DIAGNOSIS, class_="stamp"),
        element("h1", facts.source.name),
        element(
            "p",
            f"Mask at {facts.source.geometry.mpp:g} µm/px by the bundle {facts.record.bundle.name}{made}.",
            class_="lede",
        ),
    )


def _banners(facts: SlideFacts, pictures: Pictures) -> list[Html]:
    texts = []
    if facts.state == "running":
        texts.append(
            f"This run has not finished. Shown is its mask at {facts.source.geometry.mpp:g} µm/px, the finest scale "
            f"that is complete; the finest of all will be {facts.scales[-1].mpp:g} µm/px. If no process is at work on "
            "it, the same call of wsi-magnet run goes on."
        )
    if facts.failures:
        texts.append(f"{words.count(len(facts.failures), 'square')} of tissue could not be analysed; see below.")
    if pictures.slide is None:
        texts.append(f"Shown without its slide: {pictures.why_no_slide}.")
    if not facts.analysed_mm2:
        texts.append("No tissue was analysed: the mask is empty.")
    return [element("p", text, class_="banner", role="status") for text in texts]


def _key_figures(facts: SlideFacts) -> Html:
    figures = [("Analysed", words.area(facts.analysed_mm2))]
    if facts.grading is not None:
        grade = facts.grading.by_rule
        score = f"{grade.primary} + {grade.secondary} = {grade.score}" if grade else "none"
        figures.append(("Gleason, by area", score))
        figures.append(("ISUP grade group", str(grade.grade_group) if grade else "–"))
    largest = sorted((a for a in facts.areas if a.value), key=lambda a: -a.area_mm2)[: 2 if facts.grading else 3]
    figures += [(a.name, words.percent(a.percent)) for a in largest]
    figures.append(("Not analysed", words.area(facts.not_analysed_mm2) if facts.not_analysed_mm2 else "nothing"))
    return element(
        "dl", *(element("div", element("dt", name), element("dd", value)) for name, value in figures), class_="figures"
    )
