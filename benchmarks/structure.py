"""Measures of the package's structure, from its source: sizes, rooms, imports and prose.

    python -m benchmarks.structure [ROOT [ROOT]] [--json FILE]

ROOT is a checkout of the program (default: this one); of two, the first is "before" and the second "after". A room is a
file at the package's top or a folder there with all that lies below it. An import counts wherever it stands, also
inside a function or for the type checker only. Lines of a function are counted without its decorators.
`--json` writes the same figures to FILE, and the names behind them.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.source_tree import Graph, Package, circles, longest_chain, read_package

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "wsi_magnet"
QUESTION = re.compile(r"(What|Which|Where|Whether|How|Who|When)\b")
FEW_LINES = 40
MANY_PARAMETERS = (8, 12)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef
Floors = Sequence[Sequence[str]]
"""Rooms from the ground up, as tests/test_imports.py has them."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole."""

    part: int
    whole: int

    def __str__(self) -> str:
        percent = f"{self.part / self.whole:.1%}" if self.whole else "-"
        return f"{self.part:,} of {self.whole:,} ({percent})"


Value = int | float | Share | None
Measures = Mapping[str, Value]


# ---- syntax ------------------------------------------------------------------------------------------------------


def functions_of(tree: ast.AST) -> list[Function]:
    """All functions and methods, also those inside others."""
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def public_definitions(body: Sequence[ast.stmt]) -> Iterator[Definition]:
    """Functions and classes without a leading underscore, and those of such classes."""
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body)


def length(function: Function) -> int:
    """Number of lines from `def` to the end."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def parameters(function: Function) -> list[ast.arg]:
    """All parameters but self and cls."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return [one for one in every if one is not None and one.arg not in ("self", "cls")]


def is_typed(function: Function) -> bool:
    """True where all parameters and the result have a type."""
    return function.returns is not None and all(one.annotation is not None for one in parameters(function))


def docstrings(tree: ast.AST) -> list[str]:
    """The docstrings of functions and classes."""
    nodes = (node for node in ast.walk(tree) if isinstance(node, Definition))
    return [text for node in nodes if (text := ast.get_docstring(node))]


def field_strings(tree: ast.AST) -> list[str]:
    """Strings directly below an assignment, which describe a field or a constant."""
    bodies = (body for node in ast.walk(tree) if isinstance(body := getattr(node, "body", None), list))
    pairs = (pair for body in bodies for pair in pairwise(body))
    below = (second for first, second in pairs if isinstance(first, ast.Assign | ast.AnnAssign))
    values = (node.value.value for node in below if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    return [value for value in values if isinstance(value, str)]


# ---- floors ------------------------------------------------------------------------------------------------------


class _Substitute(ast.NodeTransformer):
    """Replaces known names by their values, and starred tuples by their elements."""

    def __init__(self, known: Mapping[str, ast.expr]) -> None:
        self.known = known

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """The value of a name that is known."""
        return self.known.get(node.id, node)

    def visit_Tuple(self, node: ast.Tuple) -> ast.expr:
        """A tuple without stars."""
        self.generic_visit(node)
        elements: list[ast.expr] = []
        for one in node.elts:
            spread = isinstance(one, ast.Starred) and isinstance(one.value, ast.Tuple | ast.List)
            elements += one.value.elts if spread else [one]  # type: ignore[attr-defined]
        return ast.Tuple(elements, node.ctx)


def read_floors(path: Path) -> Floors | None:
    """The constant FLOORS of a file, whose names are replaced by what was assigned to them before; None without one."""
    if not path.is_file():
        return None
    known: dict[str, ast.expr] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value and isinstance(targets[0], ast.Name):
            known[targets[0].id] = _Substitute(known).visit(node.value)
    try:
        floors: Floors = ast.literal_eval(known["FLOORS"])
    except (KeyError, ValueError):
        return None
    return floors


def arrows_up(graph: Graph, floors: Floors) -> list[str]:
    """Imports between rooms with a floor that do not run to a lower one."""
    floor = {room: number for number, rooms in enumerate(floors) for room in rooms}
    arrows = ((a, b) for a, used in graph.items() for b in used if a in floor and b in floor)
    return sorted(f"{a} -> {b}" for a, b in arrows if floor[b] >= floor[a])


# ---- measures ----------------------------------------------------------------------------------------------------


def spread(values: Sequence[int]) -> tuple[float, int, int]:
    """Median, 90th percentile and maximum; zeros without values."""
    ordered = sorted(values) or [0]
    return statistics.median(ordered), ordered[int(0.9 * len(ordered))], ordered[-1]


def questions(texts: Sequence[str]) -> Share:
    """Share of texts that begin as an indirect question."""
    return Share(sum(bool(QUESTION.match(text.lstrip())) for text in texts), len(texts))


def count_arrows(graph: Graph) -> int:
    """The arrows of a graph."""
    return sum(map(len, graph.values()))


@dataclass(frozen=True)
class Structure:
    """A checkout and its measures."""

    package: Package
    floors: Floors | None

    @property
    def measures(self) -> Measures:
        """All figures, by their name, in the order of the table."""
        return {**self.sizes(), **self.functions(), **self.house(), **self.users(), **self.prose()}

    def sizes(self) -> Measures:
        """Files and their lines."""
        modules = self.package.modules.values()
        middle, high, most = spread([module.lines for module in modules])
        return {
            "files": len(modules),
            "modules (without `__init__`)": sum(not module.is_init for module in modules),
            "lines": sum(module.lines for module in modules),
            "lines of a file: median": middle,
            "lines of a file: 90th percentile": high,
            "lines of a file: most": most,
            f"modules under {FEW_LINES} lines": sum(m.lines < FEW_LINES and not m.is_init for m in modules),
        }

    def functions(self) -> Measures:
        """Functions, their lines and their parameters."""
        functions = [one for module in self.package.modules.values() for one in functions_of(module.tree)]
        middle, high, most = spread([length(one) for one in functions])
        counts = [len(parameters(one)) for one in functions]
        return {
            "functions": len(functions),
            "lines of a function: median": middle,
            "lines of a function: 90th percentile": high,
            "lines of a function: most": most,
            **{f"functions of {many} parameters or more": sum(n >= many for n in counts) for many in MANY_PARAMETERS},
        }

    def house(self) -> Measures:
        """Rooms, and the imports between them."""
        package = self.package
        return {
            "rooms": len(package.rooms),
            "files loose at the top": len(package.loose),
            "floors: longest chain of rooms": len(longest_chain(package.room_graph)),
            "floors of tests/test_imports.py": None if self.floors is None else len(self.floors),
            "arrows between rooms": count_arrows(package.room_graph),
            "arrows between modules": count_arrows(package.module_graph),
            "arrows up between rooms": None if self.floors is None else len(self.upward),
            "circles of rooms": len(circles(package.room_graph)),
            "circles of modules": len(circles(package.module_graph)),
        }

    @cached_property
    def upward(self) -> list[str]:
        """Imports against the floors."""
        return arrows_up(self.package.room_graph, self.floors or ())

    def users(self) -> Measures:
        """Modules for one other module only, and names for more than one thing."""
        single = self.package.only_users
        return {
            "modules with one user": len(single),
            "lines of modules with one user": sum(self.package.modules[name].lines for name in single),
            "public names defined in two modules or more": len(self.doubled),
        }

    @cached_property
    def doubled(self) -> Mapping[str, list[str]]:
        """Public functions and classes that more than one module defines at its top, with the modules."""
        homes: dict[str, list[str]] = {}
        for name, module in self.package.modules.items():
            for public in {n.name for n in module.tree.body if isinstance(n, Definition) and n.name[0] != "_"}:
                homes.setdefault(public, []).append(name)
        return {public: homes[public] for public in sorted(homes) if len(homes[public]) > 1}

    def prose(self) -> Measures:
        """Types and docstrings."""
        trees = [module.tree for module in self.package.modules.values()]
        public = [node for tree in trees for node in public_definitions(tree.body) if isinstance(node, Function)]
        opening = [text for tree in trees if (text := ast.get_docstring(tree))]
        return {
            "public functions with types": Share(sum(map(is_typed, public)), len(public)),
            "public functions with a docstring": Share(sum(bool(ast.get_docstring(f)) for f in public), len(public)),
            "docstrings that begin as a question": questions([text for tree in trees for text in docstrings(tree)]),
            "those of modules that do": questions(opening),
            "field strings that do": questions([text for tree in trees for text in field_strings(tree)]),
        }

    def names(self) -> Mapping[str, Any]:
        """The names behind the figures."""
        package = self.package
        return {
            "rooms": sorted(package.rooms),
            "files loose at the top": sorted(package.loose),
            "longest chain of rooms": longest_chain(package.room_graph),
            "arrows up": self.upward,
            "circles of rooms": circles(package.room_graph),
            "circles of modules": circles(package.module_graph),
            "modules with one user": dict(sorted(package.only_users.items())),
            "public names defined in two modules or more": self.doubled,
        }


def read_structure(root: Path) -> Structure:
    """Read a checkout. Raises FileNotFoundError where it is none of this program's."""
    return Structure(read_package(root, PACKAGE), read_floors(root / "tests" / "test_imports.py"))


# ---- the command -------------------------------------------------------------------------------------------------


def text_of(value: Value) -> str:
    """Text of a figure."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, Share) else f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"


def table(columns: Mapping[str, Measures]) -> list[str]:
    """Lines of a Markdown table with a column for each heading; all have the same measures."""
    names = list(next(iter(columns.values())))
    rows = [["measure", *columns], *([name, *(text_of(one[name]) for one in columns.values())] for name in names)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [" | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return [f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])]


def as_json(structures: Mapping[str, Structure]) -> str:
    """The figures and the names behind them, by heading."""
    told = {heading: {"measures": one.measures, "names": one.names()} for heading, one in structures.items()}
    return json.dumps(told, indent=2, default=asdict) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.structure", description="Measure the package's structure."
    )
    parser.add_argument(
        "roots", type=Path, nargs="*", default=[ROOT], metavar="ROOT", help="one checkout or two [this]"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures and names to FILE as well")
    options = parser.parse_args(arguments)
    if len(options.roots) > 2:
        parser.error("two checkouts at most: before and after")
    headings = ("before", "after") if len(options.roots) == 2 else ("value",)
    try:
        structures = {head: read_structure(root) for head, root in zip(headings, options.roots, strict=True)}
    except FileNotFoundError as error:
        parser.error(str(error))
    print("\n".join(table({heading: one.measures for heading, one in structures.items()})))
    if options.json:
        options.json.write_text(as_json(structures), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
