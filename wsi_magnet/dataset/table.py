"""CSV files as rows of named cells with line numbers: tolerant of spreadsheets' variants, without silent guesses."""

from __future__ import annotations

import csv
import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from wsi_magnet.errors import ManifestError

SITE = "site"
"""Column of the data set or laboratory; written where there are several."""

COLUMNS = ("image", "annotation", "mpp", "group", "split", "labels", "consensus", SITE)
"""In the order of writing; any other column is the user's own."""

REQUIRED = ("image", "annotation", "group")


@dataclass(frozen=True, slots=True)
class TableKind:
    """Known columns of a kind of file."""

    columns: tuple[str, ...]
    aliases: Mapping[str, str]
    """Alternative names of columns, in lower case."""
    required: tuple[str, ...]
    hint: str = ""
    """Explanation for the error about a missing required column."""


MANIFEST = TableKind(
    COLUMNS,
    {"slide": "image", "mask": "annotation"},
    REQUIRED,
    "; a group is the patient, or another unit that may not be divided between splits",
)

SEPARATOR = ";"
"""Separator of the files in an annotation cell."""

DELIMITERS = (",", ";", "\t")
"""Possible separators of cells."""

_SEPARATOR_LINE = re.compile(r"sep=.?\s*$", re.IGNORECASE)

CODING_SEPARATOR = "//"
"""Separator of codings in the labels column, where a row's annotation files have different ones."""

Cells = dict[str, str]
"""Cells by column, stripped; a missing cell is empty."""


def read_table(path: Path, kind: TableKind = MANIFEST) -> list[tuple[int, Cells]]:
    """(line, cells by column) of each non-blank row after the header.

    UTF-8 with or without a byte order mark; separated by commas, semicolons or tabs, whichever is most frequent in the
    header. A first line "sep=;", as spreadsheets write it, is skipped. Raises ManifestError.
    """
    text = _text(path)
    head = [line for line in text.splitlines() if line.strip() and not _SEPARATOR_LINE.match(line)]
    delimiter = max(DELIMITERS, key=head[0].count) if head else DELIMITERS[0]
    # Strict: an unclosed quote would otherwise swallow the rows below it.
    lines = csv.reader(StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=delimiter != "\t", strict=True)
    try:
        rows = [(lines.line_num, [cell.strip() for cell in row]) for row in lines if any(cell.strip() for cell in row)]
        if rows and _SEPARATOR_LINE.match(delimiter.join(rows[0][1])):
            rows = rows[1:]
    except csv.Error as error:
        raise ManifestError(f"{path}, row {lines.line_num}: not CSV ({error})") from error
    if not rows:
        raise ManifestError(f"{path} is empty; its first line names the columns {', '.join(kind.columns)}")
    columns = _columns(path, rows[0][1], kind)
    if len(rows) == 1:
        raise ManifestError(f"{path} has a header but no rows")
    return [(line, _cells(path, line, columns, row, delimiter)) for line, row in rows[1:]]


def codings(labels: str, files: int) -> tuple[str, ...]:
    """The coding of each of a row's annotation files; the cell has one for all, or one per file separated by "//".

    Raises ManifestError for any other number.
    """
    found = tuple(part.strip() for part in labels.split(CODING_SEPARATOR))
    if len(found) not in (1, files):
        raise ManifestError(
            f"labels has {len(found)} codings ({CODING_SEPARATOR} between them) for {files} files; give 1 or {files}"
        )
    return found * files if len(found) == 1 else found


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} is not UTF-8 (byte {error.start}); save it as CSV UTF-8") from error


def _columns(path: Path, header: Sequence[str], kind: TableKind) -> list[str]:
    names = [kind.aliases.get(name.lower(), name.lower()) for name in header]
    for name, count in Counter(names).items():
        if name in kind.columns and count > 1:
            raise ManifestError(f"{path} has {count} columns for {name!r}; leave one")
    for given, name in zip(header, names, strict=True):
        # Other columns are the user's own, but a misspelt name would be ignored silently.
        known = [*kind.columns, *kind.aliases]
        if name not in kind.columns and (near := difflib.get_close_matches(name, known, 1, 0.8)):
            raise ManifestError(f"{path} has a column {given!r}; is {near[0]!r} meant? Rename it")
    missing = [name for name in kind.required if name not in names]
    if missing:
        raise ManifestError(
            f"{path} has no column {' and none '.join(repr(name) for name in missing)}; its columns are "
            f"{', '.join(header)}{kind.hint}"
        )
    return names


def _cells(path: Path, line: int, columns: Sequence[str], row: Sequence[str], delimiter: str) -> Cells:
    if len(row) > len(columns):
        raise ManifestError(
            f"{path}, row {line}: {len(row)} cells under {len(columns)} columns; put cells that hold {delimiter!r} "
            "into double quotes"
        )
    cells = dict(zip(columns, [*row, *[""] * (len(columns) - len(row))], strict=True))
    if delimiter == ";" and "mpp" in cells:
        cells["mpp"] = cells["mpp"].replace(",", ".")  # spreadsheets that separate by ";" write 0,25
    return cells
