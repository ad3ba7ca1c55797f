"""HTML of report pages from jinja2 templates; every value is escaped, and a page may fetch nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from wsi_magnet._version import __version__
from wsi_magnet.results.event_log import now
from wsi_magnet.text import area_text, duration_text, percent_text, time_text


def render(template: str, script: str, title: str, page: object) -> str:
    """Render a page. script: name of its .js file. page: the values that the template shows, as attributes."""
    # The style sheet and the scripts are files of this package, not values from outside.
    sources = {"style": Markup(_source("page.css")), "script": Markup(_source(script))}
    return _environment().get_template(template).render(title=title, page=page, **sources)


def data_uri(picture: bytes, kind: str) -> str:
    """A picture as a URI; kind: "png" or "jpeg"."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("wsi_magnet.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.globals.update(version=__version__, now=partial(now, "minutes"), csp_hash=_csp_hash)
    found.filters.update(
        area=area_text,
        percent=percent_text,
        time=time_text,
        duration=duration_text,
        hex=_hex,
        jpeg=lambda picture: data_uri(picture, "jpeg"),
        json_block=_json_block,
    )
    return found


@cache
def _source(name: str) -> str:
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _csp_hash(text: str) -> Markup:
    """Source expression of an inline style or script in the Content-Security-Policy."""
    return Markup("'sha256-{}'").format(base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())


def _json_block(values: Mapping[str, Any]) -> Markup:
    """JSON inside a script element; no text in it can end the element."""
    return Markup(json.dumps(values, separators=(",", ":")).replace("<", "\\u003c"))


def _hex(color: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
