"""The page that lists several slides: a row a slide, sortable, each leading to its own page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_magnet.report import words
from wsi_magnet.report.colours import GREY, stacked, swatch
from wsi_magnet.report.facts import SlideFacts, shown
from wsi_magnet.report.figure import describe
from wsi_magnet.report.markup import Child, Html, Page, data_uri, document, element, join
from wsi_magnet.report.sections import NOT_FOR_DIAGNOSIS, footer

_MOST_CLASSES = 6
"""Columns of shares; where slides have more classes between them, their bars and their own pages tell."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the list; small, so that a cohort may be large."""

    href: str
    name: str
    result: str
    """Name of the result folder, which tells slides of one name apart."""
    state: str
    analysed_mm2: float
    not_analysed_mm2: float
    shares: dict[str, float]
    """Percent of the analysed area by class."""
    colors: dict[str, tuple[int, int, int]]
    grade: tuple[int, int, int] | None
    """Primary, secondary, ISUP grade group."""
    graded: bool
    """True where the bundle knows Gleason patterns."""
    refined_percent: float
    """Of the squares of the finest scale."""
    alt: str
    thumbnail: bytes


def entry_of(facts: SlideFacts, href: str, thumbnail: bytes) -> Entry:
    """What the list needs of a slide."""
    grade = facts.grading.by_rule if facts.grading else None
    return Entry(
        href,
        facts.source.name,
        facts.source.folder.resolve().name,
        facts.state,
        facts.analysed_mm2,
        facts.not_analysed_mm2,
        {a.name: a.percent for a in facts.areas if a.value},
        {c.name: c.color for c in shown(facts)},
        (grade.primary, grade.secondary, grade.grade_group) if grade else None,
        facts.grading is not None,
        facts.scales[-1].percent if facts.scales else 0.0,
        describe(facts),
        thumbnail,
    )


def index_page(entries: Sequence[Entry]) -> str:
    """HTML of the list."""
    classes: dict[str, tuple[int, int, int]] = {}
    for entry in entries:
        classes.update({name: color for name, color in entry.colors.items() if name not in classes})
    body = element(
        "main",
        element(
            "header",
            element("p", "Segmentation report", class_="kicker"),
            element("p", NOT_FOR_DIAGNOSIS, class_="stamp"),
            element("h1", words.count(len(entries), "slide")),
            element("p", _lede(entries), class_="lede"),
        ),
        _key(classes),
        element("div", _table(entries, list(classes)), class_="wide"),
        footer("Areas and grades are a network's; nobody has checked them for these slides."),
        class_="index",
    )
    title = f"{words.count(len(entries), 'slide')}: wsi-magnet report"
    return document(Page(title, body, ("page.css",), ("index.js",)))


def _lede(entries: Sequence[Entry]) -> str:
    states = Counter(entry.state for entry in entries)
    told = ", ".join(f"{number} {state}" for state, number in states.items())
    text = f"{words.area(sum(e.analysed_mm2 for e in entries))} analysed; {told}."
    groups = Counter(entry.grade[2] for entry in entries if entry.grade)
    if groups:
        parts = [f"{group} ({words.count(n, 'slide')})" for group, n in sorted(groups.items())]
        text += f" ISUP grade groups by area: {', '.join(parts)}."
    return text


def _key(classes: dict[str, tuple[int, int, int]]) -> Html:
    items = [element("li", swatch(color), f" {name}") for name, color in classes.items()]
    return element("ul", *items, class_="key", aria_label="Colours of the classes")


def _table(entries: Sequence[Entry], classes: list[str]) -> Html:
    columns = classes if len(classes) <= _MOST_CLASSES else []
    graded = any(entry.graded for entry in entries)
    head: list[tuple[Child, bool]] = [("Picture", False), ("Slide", True), ("State", True), ("Analysed", True)]
    head += [("Composition", False), *((name, True) for name in columns)]
    head += [("Gleason", True)] if graded else []
    head += [("Refined at the finest scale", True), ("Not analysed", True)]
    heads = [
        element(
            "th",
            element("button", text, type="button") if sortable else text,
            scope="col",
            aria_sort="none" if sortable else None,
        )
        for text, sortable in head
    ]
    rows = [element("tr", *_cells(entry, columns, graded)) for entry in entries]
    return element(
        "table",
        element("caption", "Shares are of the analysed area. A heading sorts by its column."),
        element("thead", element("tr", *heads)),
        element("tbody", *rows),
        class_="cohort",
    )


def _cells(entry: Entry, columns: list[str], graded: bool) -> list[Html]:
    parts = [(share, entry.colors.get(name, GREY)) for name, share in entry.shares.items()]
    cells = [
        element("td", element("img", src=data_uri(entry.thumbnail, "jpeg"), alt=entry.alt), class_="thumb"),
        element("th", *_title(entry), scope="row", data_sort=entry.name.lower()),
        element("td", entry.state, data_sort=entry.state, class_="state " + entry.state.split()[-1]),
        _number(entry.analysed_mm2, words.area(entry.analysed_mm2)),
        element("td", stacked(parts), class_="composition"),
        *(_number(entry.shares.get(n, -1.0), _share(entry, n)) for n in columns),
    ]
    if graded:
        cells.append(_grade_cell(entry))
    return [
        *cells,
        _number(entry.refined_percent, words.percent(entry.refined_percent)),
        _number(entry.not_analysed_mm2, words.area(entry.not_analysed_mm2) if entry.not_analysed_mm2 else "–"),
    ]


def _title(entry: Entry) -> list[Child]:
    link = element("a", entry.name, href=entry.href)
    return [link] if entry.result == Path(entry.name).stem else [link, element("small", entry.result)]


def _share(entry: Entry, name: str) -> str:
    return words.percent(entry.shares[name]) if name in entry.shares else "–"


def _grade_cell(entry: Entry) -> Html:
    if entry.grade is None:
        return _number(0 if entry.graded else -1, "none" if entry.graded else "–")
    primary, secondary, group = entry.grade
    text = join([f"{primary} + {secondary}", element("small", f" group {group}")])
    return _number(group * 100 + primary * 10 + secondary, text)


def _number(value: float, text: Child) -> Html:
    return element("td", text, data_sort=f"{value:.6g}")
