"""Templates: no value from outside becomes an element, and a page may fetch nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from tests.report.conftest import EVIL
from tests.report.reading import Reading
from wsi_magnet.report import render as rendering
from wsi_magnet.report.pages import Entry, index_page
from wsi_magnet.report.render import render

texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")))


def entry(name: str, state: str = "finished") -> Entry:
    return Entry(
        name, name, name, state, "", 1.0, 0.0, {name: 100.0}, {name: (1, 2, 3)}, (3, 4, 2), True, 50.0, name, b"picture"
    )


@given(texts)
def test_text_is_shown_as_it_is_and_makes_no_element(text: str) -> None:
    plain, read = Reading(index_page([entry("name")])), Reading(index_page([entry(text)]))
    small = ("small",)  # shown where a result is not named like its slide
    assert [e for e, _ in read.elements if e not in small] == [e for e, _ in plain.elements if e not in small]
    assert " ".join(text.split()) in read.text
    assert [link["href"] for link in read.named("a")] == [text]


@given(st.dictionaries(texts, texts))
def test_a_block_of_data_ends_where_it_should(values: dict[str, str]) -> None:
    block = str(rendering._json_block(values))
    assert "<" not in block
    assert json.loads(block) == values


@pytest.mark.parametrize("name", ["page.css", "index.js", "viewer.js"])
def test_sources_cannot_end_their_element(name: str) -> None:
    assert "</" not in rendering._source(name)


def test_a_page_may_fetch_nothing_and_runs_only_its_own_script() -> None:
    page = index_page([entry(EVIL)])
    policies = [m["content"] or "" for m in Reading(page).named("meta") if m.get("http-equiv")]
    assert [p.split(";")[0] for p in policies] == ["default-src 'none'"]
    assert not [word for word in policies[0].split() if word.startswith(("http", "*", "'self'", "'unsafe", "file"))]
    for name, element in (("index.js", "script"), ("page.css", "style")):
        source = rendering._source(name)
        assert f"<{element}>{source}</{element}>" in page, "the hash is of just this text"
        assert str(rendering._csp_hash(source)) in policies[0]


def test_a_value_that_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="lede"):
        render("index.html", "index.js", "title", {})
