"""Markup out of values: nothing that comes from outside becomes an element."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tests.report.reading import Reading
from wsi_magnet.report.markup import Html, Page, data_block, document, element, join, table

texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")))


@given(texts, texts)
def test_text_comes_back_as_it_was_and_makes_no_element(text: str, value: str) -> None:
    read = Reading(element("p", text, title=value))
    assert (read.elements, "".join(read.texts)) == ([("p", {"title": value})], text)


@given(st.dictionaries(texts, texts))
def test_a_block_of_data_ends_where_it_should(values: dict[str, str]) -> None:
    block = data_block("x", values)
    inside = block.removeprefix('<script type="application/json" id="x">').removesuffix("</script>")
    assert "<" not in inside
    assert json.loads(inside) == values


def test_children_that_are_markup_stay_so() -> None:
    assert element("p", element("b", "<"), None, 2) == "<p><b>&lt;</b>2</p>"


def test_attributes_are_named_as_html_names_them() -> None:
    assert element("input", class_="a", aria_label='"', checked=True, hidden=False, data_x=None) == (
        '<input class="a" aria-label="&quot;" checked/>'
    )


def test_joined_text_is_escaped() -> None:
    assert join(["<", Html("<"), 1]) == "&lt;<1"


def test_the_first_column_of_a_table_heads_its_rows() -> None:
    made = table(("a", "b"), [("<", 1)], caption="&")
    assert '<tr><th scope="row">&lt;</th><td>1</td></tr>' in made


def test_a_document_may_fetch_nothing() -> None:
    page = document(Page("<t>", element("main"), ("page.css",), ("index.js",)))
    policies = [m["content"] or "" for m in Reading(page).named("meta") if m.get("http-equiv")]
    assert [p.split(";")[0] for p in policies] == ["default-src 'none'"]
    assert not [word for word in policies[0].split() if word.startswith(("http", "*", "'self'", "'unsafe", "file"))]
