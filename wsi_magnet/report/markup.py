"""HTML out of values: whatever is not markup already is escaped, and nothing on a page may reach the network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

_VOID = frozenset({"br", "col", "hr", "img", "input", "link", "meta", "rect", "line"})
"""Elements without an end tag; `rect` and `line` are SVG's and close themselves."""


class Html(str):
    """Markup: text that has been escaped, or was written by this program."""

    __slots__ = ()


Child = str | int | float | Html | None


@dataclass(frozen=True, slots=True)
class Page:
    """What a document is made of."""

    title: str
    body: Html
    styles: tuple[str, ...]
    """Names of this package's .css files."""
    scripts: tuple[str, ...] = ()
    """Names of this package's .js files."""


def element(name: str, *children: Child, **attributes: str | int | float | bool | None) -> Html:
    """`<name attributes>children</name>`; children that are not Html are escaped.

    In names of attributes a closing underscore falls away and others become hyphens: `class_`, `data_sort`. False and
    None leave an attribute out, True gives it no value.
    """
    head = name
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        head += " " + key.rstrip("_").replace("_", "-")
        if value is not True:
            head += f'="{html.escape(str(value))}"'
    if name in _VOID:
        return Html(f"<{head}/>")
    return Html(f"<{head}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Html:
    """One after the other; None is nothing."""
    return Html(
        "".join(c if isinstance(c, Html) else html.escape(str(c)) for c in children if c is not None),
    )


def table(head: Iterable[Child], rows: Iterable[Iterable[Child]], *, caption: Child = None, class_: str = "") -> Html:
    """A table whose first column heads its rows."""
    lines = []
    for first, *others in rows:
        lines.append(
            element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in others)),
        )
    return element(
        "table",
        element("caption", caption) if caption else None,
        element("thead", element("tr", *(element("th", cell, scope="col") for cell in head))),
        element("tbody", *lines),
        class_=class_ or None,
    )


def data_uri(picture: bytes, kind: str) -> str:
    """A picture as an address; kind: "png" or "jpeg"."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def data_block(identifier: str, values: Mapping[str, Any]) -> Html:
    """Plain values for a script to read; no text in them can end the block."""
    text = json.dumps(values, separators=(",", ":")).replace("<", "\\u003c")
    return Html(f'<script type="application/json" id="{html.escape(identifier)}">{text}</script>')


def document(page: Page) -> str:
    """The whole file. Its policy lets the browser run and show what stands in it, and fetch nothing."""
    css, scripts = "\n".join(_source(name) for name in page.styles), [_source(name) for name in page.scripts]
    policy = (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; style-src {_hash(css)}; "
        f"script-src {' '.join(map(_hash, scripts)) or repr('none')}"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name_="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),  # or a browser asks the server for one
        element("title", page.title),
        Html(f"<style>{css}</style>"),
    )
    body = element("body", page.body, *(Html(f"<script>{script}</script>") for script in scripts))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


@cache
def _source(name: str) -> str:
    return files("wsi_magnet.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
