"""docs/methods.md: each method as this package has it, and what it reached in evaluations, beside the poster's figures.

    python -m pipelines.methods_page GlaS=glas/evaluation.json RINGS=rings/evaluation.json -o docs/methods.md

Each evaluation is that of a data set, and gets a section with its name. The pictures go to images/ beside the page.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from wsi_magnet.config import MAGNET, MAGNET_FAST
from wsi_magnet.errors import ConfigError, WsiMagnetError
from wsi_magnet.evaluate.bootstrap import Estimate
from wsi_magnet.evaluate.columns import ACCURACY, HEADROOM, MENDED, MIOU, SPOILED
from wsi_magnet.evaluate.poster import IMAGE_WH, POSTER, SOURCE
from wsi_magnet.evaluate.scatter import Dot, draw_methods
from wsi_magnet.evaluate.tables import POSTERS_NOTE, UNKNOWN, estimate_text, number_text
from wsi_magnet.methods.magnet import MagNet
from wsi_magnet.methods.method import MethodInfo, Needs
from wsi_magnet.methods.registry import method_class, method_names
from wsi_magnet.text import counted

COMMAND = "python -m pipelines.methods_page"
WIDTH = 150
"""Longest line of texts."""

HEAD = f"""# The poster's methods

What each method is in this package, and how it compares with MagNet on the same backbone, slides, tiles and metrics.
The page is written by `{COMMAND}` from files of evaluations. [evaluation.md](evaluation.md) defines
the measures; [training.md](training.md#heads-of-other-methods) has the training of those that learn.

*Faithful* is as in its source, *adapted* is changed for patches of slides or for a frozen backbone, *reimplemented* is
from the paper's text alone. In a *local* method nothing farther away than the margin of a cell has influence, but for
the network's features that it reads. In others a step sees the whole patch of a cell and nothing beyond, so that the
result may jump at the borders of cells. No result depends on tiles or workers.
"""

COURSES = {
    "Patching": "The bundle's network at the finest scale alone: detail, and no more context than a patch has.",
    "Downsample": "The bundle's network at the coarsest scale alone, upsampled: context, without detail.",
    MAGNET_FAST: "MagNet on a share of the cells of the finer scales, those where refining reduces uncertainty most. "
    "The published program takes the least uncertain ones.",
}
"""Methods that are no step of their own."""

NEEDS = {
    "rgb": "the patch's pixels",
    "fine": "probabilities of the network on the patch",
    "features": "features of the network on the patch",
    "context": "features and probabilities of the coarsest scale's patch",
    "head": "weights of its own, which `train` makes",
}


@dataclass(frozen=True, slots=True)
class DataSet:
    """An evaluation."""

    name: str
    values: Mapping[str, Any]
    """Contents of evaluation.json."""

    @property
    def picture(self) -> str:
        """Its picture, relative to the page."""
        return f"images/methods-{'-'.join(re.findall('[a-z0-9]+', self.name.lower()))}.png"

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """Rows of the table."""
        rows: Sequence[Mapping[str, Any]] = self.values["rows"]
        return rows

    @property
    def extent(self) -> str:
        """Its images and groups: "115 images of 13 groups"."""
        groups = counted(self.values["bootstrap"]["groups"], "group")
        return f"{counted(len(self.values['images']), 'image')} of {groups}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and its pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", nargs="+", metavar="NAME=evaluation.json")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="methods.md")
    options = parser.parse_args(arguments)
    sets = [read(text) for text in options.evaluations]
    for picture, count in Counter(one.picture for one in sets).items():
        if count > 1:
            names = ", ".join(repr(one.name) for one in sets if one.picture == picture)
            raise ConfigError(f"{names} would share the picture {picture}; give names of different letters or digits")
    for one in sets:
        picture = options.output.parent / one.picture
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(draw(one))
    options.output.write_text(page(sets), encoding="utf-8")


def read(text: str) -> DataSet:
    """The evaluation of "NAME=evaluation.json". Raises ConfigError."""
    name, separator, path = text.partition("=")
    if not (name and separator):
        raise ConfigError(f"{text!r}: give the data set's name and its evaluation, NAME=evaluation.json")
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict) or not {"rows", "reference", "bootstrap", "images", "notes"} <= values.keys():
        raise ConfigError(f"{path} is no evaluation.json of `wsi-magnet evaluate`")
    found = DataSet(name, values)
    try:
        section(found)
        draw(found)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is damaged ({type(error).__name__}: {error}); evaluate again") from None
    return found


def page(sets: Sequence[DataSet]) -> str:
    """The whole page, Markdown."""
    methods = "\n\n".join(about(name) for name in own_methods())
    return "\n".join([HEAD, "## Methods\n", overview(), "", methods, *(section(one) for one in sets)]) + "\n"


def overview() -> str:
    """The table of methods that have a step of their own, Markdown."""
    infos = [_info(name) for name in own_methods() if name not in COURSES]
    steps = {one.name: str(one.steps) if one.needs.head else UNKNOWN for one in infos}
    rows = [[one.name, one.origin, "yes" if one.local else "no", steps[one.name]] for one in infos]
    return markdown(["method", "origin", "local", "steps of a training, unless given"], rows)


def own_methods() -> list[str]:
    """Names of this package's methods, in the order of the table."""
    return [name for name in method_names() if name in (*COURSES, MAGNET) or _is_own(name)]


def about(name: str) -> str:
    """A method's part of the page."""
    if name in COURSES:
        return f"### {name}\n\n{_wrapped(COURSES[name])}"
    info = _info(name)
    text = _wrapped(f"*{info.origin.capitalize()}.* {info.source}. {info.differs}")
    modules = ", refinement modules and thresholds for each step, which `train` makes" if name == MAGNET else ""
    needs = _item(f"Needs {_needs(info.needs)}{modules}.")
    return "\n".join([f"### {name}", "", text, "", needs, *_parameters(info)])


def section(one: DataSet) -> str:
    """A data set's part of the page."""
    reference = one.values["reference"]
    head = ["method", "mIoU %", f"difference to {reference}", "s/megapixel", "memory MB"]
    measured = [
        [_estimate(row, MIOU), _difference(row), number_text(_known(row["seconds_a_megapixel"]), 3), _memory(row)]
        for row in one.rows
    ]
    table = [[row["name"], *cells, _posters(row["name"])] for row, cells in zip(one.rows, measured, strict=True)]
    notes = [f"{note}." for note in one.values["notes"] if not note.startswith(POSTERS_NOTE)]
    notes.append(f"the poster's mIoU: {SOURCE}; not measured here.")
    parts = [
        f"\n## {one.name}",
        f"{one.extent}; bundles: {', '.join(dict.fromkeys(row['bundle'] for row in one.rows))}.",
        markdown([*head, f"the poster's mIoU %: {' / '.join(IMAGE_WH)}"], table),
        f"![Accuracy against time on {one.name}]({one.picture})",
        *_halves(one),
        "\n".join(map(_item, notes)),
    ]
    return "\n\n".join(parts)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def draw(one: DataSet) -> bytes:
    """PNG of accuracy against time."""
    dots = [
        Dot(
            row["name"],
            _read(row["measures"][MIOU]),
            _known(row["seconds_a_megapixel"]),
            row["name"] == one.values["reference"],
        )
        for row in one.rows
    ]
    lines = ", lines: 95 % intervals" if one.values["bootstrap"]["groups"] > 1 else ""
    return draw_methods(dots, f"{one.name}: {one.extent}{lines}")


def _info(name: str) -> MethodInfo:
    return MagNet.info if name == MAGNET else method_class(name).info


def _is_own(name: str) -> bool:
    return method_class(name).__module__.startswith("wsi_magnet.")


def _needs(needs: Needs) -> str:
    found = [text for key, text in NEEDS.items() if getattr(needs, key)]
    return ", ".join(["the coarser result", *found])


def _parameters(info: MethodInfo) -> list[str]:
    values = [f"`{name}` {value:.4g}" for name, value in info.parameters.items()]
    fitted = [f"`{name}` among {', '.join(f'{one:.4g}' for one in choice)}" for name, choice in info.fit.items()]
    lines = [_item(f"Parameters: {', '.join(values)}.")] if values else []
    return [*lines, *([_item(f"Fitted on validation rows: {'; '.join(fitted)}.")] if fitted else [])]


def _wrapped(text: str) -> str:
    return fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _item(text: str) -> str:
    """An item of a list; its first word keeps its case if it is a name."""
    first = text[0].upper() if text[:2].islower() else text[0]
    return fill(
        first + text[1:],
        WIDTH,
        initial_indent="- ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _halves(one: DataSet) -> list[str]:
    """The table of rows against their halves; nothing where there are none."""
    keys = (ACCURACY, MENDED, SPOILED, HEADROOM)
    rows = [row for row in one.rows if row["measures"].get(HEADROOM, {}).get("value") is not None]
    if not rows:
        return []
    text = "Against the two halves, Downsample and Patching ([definitions](evaluation.md#against-the-two-halves)):"
    lines = [[row["name"], *(_estimate(row, key) for key in keys)] for row in rows]
    return [text, markdown(["method", "accuracy %", "mended %", "spoiled %", "headroom %"], lines)]


def _estimate(row: Mapping[str, Any], key: str) -> str:
    return estimate_text(_read(row["measures"][key]), percent=True)


def _difference(row: Mapping[str, Any]) -> str:
    found = row["measures"][MIOU]["difference"]
    return UNKNOWN if found is None else estimate_text(_read(found), percent=True)


def _memory(row: Mapping[str, Any]) -> str:
    """RAM, and GPU memory where it was used."""
    ram, gpu = row["peak_memory_bytes"], row["peak_gpu_memory_bytes"]
    if ram is None:
        return UNKNOWN
    return f"{ram / 1e6:.0f}" + (f" + {gpu / 1e6:.0f} GPU" if gpu else "")


def _posters(name: str) -> str:
    """The poster's mIoU on its data sets: "67.57 / 72.96 / 70.60"."""
    figures = POSTER.get(name.partition(" [")[0], {})
    return " / ".join(f"{figures[one].miou_percent:.2f}" if one in figures else UNKNOWN for one in IMAGE_WH)


def _read(values: Mapping[str, float | None]) -> Estimate:
    value, low, high = (values[end] for end in ("value", "low", "high"))
    return Estimate(_known(value), _known(low), _known(high))


def _known(value: float | None) -> float:
    return float("nan") if value is None else value


if __name__ == "__main__":
    try:
        main()
    except (WsiMagnetError, OSError) as problem:
        sys.exit(f"Error: {problem}")
