"""The vocabulary: every public name is there, and no name or text uses a word that has another one in the glossary."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import wsi_magnet
from tests.runs import MadeRun
from wsi_magnet import CohortOptions, Execution, find_slides, segment_cohort

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "wsi_magnet"
PAGES = (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "pipelines" / "README.md")

REPLACED = {
    "hall": "context of a worker",
    "shelf": "cache",
    "crew": "threads",
    "jury": "scorer",
    "roster": "workers",
    "apart": "isolated",
    "gather": "collect, read, find",
    "claim": "lock, lease",
    "claimed": "locked",
    "turn": "fencing token",
    "tidy": "compact",
    "carry": "upsample",
    "carried": "upsampled only",
    "certain": "unaffected",
    "reach": "receptive radius",
    "ahead": "prefetch",
    "lasting": "durable",
    "passing": "transient",
    "passes": "scales",
    "pass": "scale",
    "frame": "layout (of a scale), or a coordinate frame",
    "frames": "layouts",
    "square": "cell",
    "squares": "cells",
    "tell": "notify",
    "told": "notified, logged",
    "heard": "received",
    "said": "stated, output",
    "asked": "requested",
    "begun": "started",
    "shunned": "excluded",
    "doubled": "speculative",
    "suspects": "quarantined",
    "deserted": "no workers",
    "tend": "on poll",
    "verdict": "result of a check",
    "bend": "augmentation",
    "material": "training data",
}
"""Words that no identifier may contain, and the words of the glossary in their place."""

OTHER_MEANINGS = {
    "square": "the square of a grid (geometry), before it is a cell or a tile",
    "squares": "`Box.squares` covers a box with squares of any side",
    "frame": "QuPath's and level 0's frame of coordinates; a stack frame; a table of data",
    "LevelFrame": "frame of coordinates of a pyramid level",
    "level_frame": "the same",
    "frames": "the same, several",
    "CoordinateFrame": "frame of coordinates of an export",
    "other_frame": "the same",
    "_write_frame": "a data frame of AnnData",
    "_plain_frame": "the lines round a figure",
    "_frame": "the lines round a figure",
    "MOST_FRAME": "the dark edge of a scanned glass",
    "_mirror_frame": "the edge of a crop",
    "_cut_frame": "the edge of a crop",
    "turn": "of an image by quarters (augmentation)",
    "cells_certain": "a key of summary.json, which old results have",
}
"""Identifiers with such a word in another meaning."""

REPLACED_IN_TEXT = {
    r"squares? (?:with|of) tissue|refined squares|squares? refined": "cell",
    r"\b(?:hall|shelf|crew|jury|roster)\b": "see above",
    r"\bgo(?:es|ne)? on with\b": "resume",
    r"\bgo(?:es|ne)? on from\b": "resume",
    r"\bmade anew\b": "rebuilt",
    r"\bcarr(?:y|ies|ied) over\b": "upsampled only",
    r"\bwhoever\b": "a noun",
}
"""Phrases that neither the code nor a document may contain."""


def definitions(tree: ast.AST) -> Iterator[str]:
    """Names that a module defines: functions, classes, parameters, variables and attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


def words(name: str) -> set[str]:
    """Words of an identifier, in lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def test_every_name_is_there() -> None:
    assert {*wsi_magnet._HOME, "__version__"} == set(wsi_magnet.__all__) <= set(dir(wsi_magnet))
    for name in wsi_magnet.__all__:
        assert getattr(wsi_magnet, name)


@pytest.mark.slow
def test_a_batch_in_python(made_run: MadeRun, tmp_path: Path) -> None:
    bad = tmp_path / "bad.svs"
    bad.write_bytes(b"no slide")
    out = tmp_path / "results"
    slides = find_slides([str(bad), str(made_run.slide)], out).slides
    cohort = segment_cohort(slides, CohortOptions(out, bundle=str(made_run.bundle), execution=Execution(workers=1)))
    assert cohort.counts == {"finished": 1, "failed": 1}
    assert "cannot be opened" in (cohort.states["bad"].error or "")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_have_british_colours(path: Path) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not re.findall(r"\b\w*[Cc]olor\w*", text)


def test_words_are_split_at_underscores_and_capitals() -> None:
    assert words("_lost_toHTTPName2") == {"lost", "to", "http", "name"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_identifiers_use_the_words_of_the_glossary(path: Path) -> None:
    names = {name for name in definitions(ast.parse(path.read_text(encoding="utf-8"))) if name not in OTHER_MEANINGS}
    found = {name: word for name in names for word in words(name) & REPLACED.keys()}
    assert not found, {name: f"instead of {word!r}: {REPLACED[word]}" for name, word in found.items()}


@pytest.mark.parametrize("path", [*sorted(PACKAGE.rglob("*.py")), *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_use_the_words_of_the_glossary(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for phrase, instead in REPLACED_IN_TEXT.items():
        assert not re.search(phrase, text, re.IGNORECASE), f"instead of {phrase}: {instead}"
