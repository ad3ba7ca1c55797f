"""The figure of a page: the slide with its layers, what switches them, and what their colours mean."""

from __future__ import annotations

from collections.abc import Sequence

from wsi_magnet.config import CELL_PX
from wsi_magnet.labels import NOT_ANALYSED, NOT_ANALYSED_CLASS, LabelClass
from wsi_magnet.report import words
from wsi_magnet.report.colours import GREY, bar, scale_color, swatch
from wsi_magnet.report.facts import SlideFacts, shown
from wsi_magnet.report.markup import Html, data_block, data_uri, element, join
from wsi_magnet.report.pictures import Pictures, codes_png

_HELP = "Wheel or pinch to zoom, drag to move; with the keyboard +, −, arrows, and 0 for all of the slide."


def figure(facts: SlideFacts, pictures: Pictures) -> Html:
    """The figure with its controls; without a script, and on paper, a picture in its place."""
    alt = describe(facts)
    return element(
        "section",
        element(
            "div",
            element("div", _viewer(facts, alt), _paper(pictures, alt), class_="plate"),
            element("div", _controls(facts, pictures), _legends(facts, pictures), class_="panel"),
            class_="spread",
        ),
        element("p", element("strong", "Figure. "), _caption(facts, pictures), class_="caption"),
        data_block("viewer-data", _data(facts, pictures)),
        aria_label="The slide and its mask",
    )


def describe(facts: SlideFacts) -> str:
    """The picture in words, for those who do not see it."""
    parts = [f"{a.name} {words.percent(a.percent)}" for a in facts.areas if a.value and a.area_mm2]
    return f"Slide {facts.source.name} with its mask: {', '.join(parts) or 'nothing was segmented'}"


def _viewer(facts: SlideFacts, alt: str) -> Html:
    buttons = [
        element("button", sign, type="button", data_do=do, aria_label=label, title=label)
        for sign, do, label in (("+", "in", "Zoom in"), ("−", "out", "Zoom out"), ("Fit", "fit", "Show all of it"))
    ]
    return element(
        "div",
        element("canvas", alt, tabindex=0, role="application", aria_label=alt, aria_describedby="viewer-help"),
        element("div", *buttons, class_="zoom", role="group", aria_label="Zoom"),
        element("div", element("span", class_="rule"), element("span", class_="length"), class_="scalebar"),
        element("output", class_="under", aria_live="off"),
        element("p", _HELP, id="viewer-help", class_="hint"),
        id="viewer",
    )


def _paper(pictures: Pictures, alt: str) -> Html:
    width, height = pictures.size.wh
    return element("img", class_="paper", src=data_uri(pictures.paper, "jpeg"), alt=alt, width=width, height=height)


def _controls(facts: SlideFacts, pictures: Pictures) -> Html:
    layers = [("classes", "Classes")]
    if pictures.uncertainty is not None:
        layers.append(("uncertainty", "Uncertainty"))
    if facts.refined_at.any():
        layers.append(("refined", "Refined at"))
    layers.append(("none", "Slide only" if pictures.slide is not None else "Nothing"))
    return element(
        "form",
        _choices("Layer", "layer", layers),
        _choices("Draw", "style", [("fill", "Areas"), ("outline", "Outlines")]),
        element(
            "label",
            "Opacity",
            element("input", type="range", name_="opacity", min=0, max=100, value=45 if pictures.slide else 90),
            class_="range",
        ),
        class_="controls",
        id="viewer-controls",
        autocomplete="off",
    )


def _choices(title: str, name: str, options: Sequence[tuple[str, str]]) -> Html:
    radios = [
        element(
            "label",
            element("input", type="radio", name_=name, value=value, checked=i == 0),
            element("span", text),
        )
        for i, (value, text) in enumerate(options)
    ]
    return element("fieldset", element("legend", title), element("div", *radios, class_="choices"), data_of=name)


def _legends(facts: SlideFacts, pictures: Pictures) -> Html:
    ramp = element("p", element("span", "sure"), element("span", class_="ramp"), element("span", "unsure"))
    return join(
        [
            element("div", _class_table(facts), data_legend="classes"),
            element(
                "div", ramp, _hint("One minus the margin between the two likeliest classes."), data_legend="uncertainty"
            )
            if pictures.uncertainty is not None
            else None,
            element("div", _scale_key(facts), data_legend="refined"),
        ]
    )


def _hint(text: str) -> Html:
    return element("p", text, class_="hint")


def _class_table(facts: SlideFacts) -> Html:
    drawn = {c.value: c for c in shown(facts)}
    rows = [_class_row(drawn.get(a.value), a.name, a.area_mm2, a.percent) for a in facts.areas]
    if facts.not_analysed_mm2:
        rows.append(_class_row(NOT_ANALYSED_CLASS, NOT_ANALYSED_CLASS.name, facts.not_analysed_mm2, None))
    head = element(
        "tr",
        *(element("th", text, scope="col") for text in ("Class", "Area", "Share")),
    )
    total = element(
        "tr", element("th", "analysed", scope="row"), element("td", words.area(facts.analysed_mm2)), element("td")
    )
    return element(
        "table",
        element("caption", "Areas, and shares of the analysed area"),
        element("thead", head),
        element("tbody", *rows),
        element("tfoot", total),
        class_="classes",
    )


def _class_row(drawn: LabelClass | None, name: str, area_mm2: float, percent: float | None) -> Html:
    box = element("input", type="checkbox", name_="class", value=drawn.value, checked=True) if drawn else None
    title = element("label", box, swatch(drawn.color) if drawn else None, element("span", name))
    return element(
        "tr",
        element("th", title, bar(percent, drawn.color) if drawn and percent is not None else None, scope="row"),
        element("td", words.area(area_mm2)),
        element("td", words.percent(percent) if percent is not None else "–"),
    )


def _scale_key(facts: SlideFacts) -> Html:
    items = [
        element("li", swatch(scale_color(i, len(facts.scales))), f" {s.mpp:g} µm/px")
        for i, s in enumerate(facts.scales)
        if s.refined
    ]
    if (facts.refined_at == NOT_ANALYSED).any():
        items.append(element("li", swatch(GREY), " not analysed"))
    return join([element("ul", *items, class_="key"), _hint("The finest scale at which each square was looked at.")])


def _caption(facts: SlideFacts, pictures: Pictures) -> str:
    width, height = (n * pictures.mpp / 1000 for n in pictures.size.wh)
    under = "its slide" if pictures.slide is not None else "no picture, because the slide was not there,"
    return (
        f"The mask of {facts.source.name} over {under} as segmented at {facts.source.geometry.mpp:g} µm/px and drawn "
        f"at {pictures.mpp:.3g} µm/px; {width:.3g} × {height:.3g} mm. Areas are counted on the mask itself, not on "
        "this picture."
    )


def _data(facts: SlideFacts, pictures: Pictures) -> dict[str, object]:
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
        "cell": CELL_PX * finest / pictures.mpp,
        "colors": {**colors, NOT_ANALYSED: GREY},
        "names": {**names, NOT_ANALYSED: NOT_ANALYSED_CLASS.name},
        "scales": {**scales, NOT_ANALYSED: GREY},
    }
