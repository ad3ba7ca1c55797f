"""Syntax trees of a package's modules, and the imports between them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

Graph = Mapping[str, frozenset[str]]
"""Names that each name points to, without itself."""


@dataclass(frozen=True)
class Module:
    """A file of a package."""

    name: str
    """Dotted, inside the package: "slides.read"; an `__init__` has its folder's name, the package's own has ""."""
    path: Path
    source: str

    @property
    def lines(self) -> int:
        """Lines of the file."""
        return len(self.source.splitlines())

    @property
    def room(self) -> str:
        """The file or folder at the package's top that the module belongs to."""
        return self.name.partition(".")[0] or "__init__"

    @property
    def is_init(self) -> bool:
        """True for the `__init__` of a folder."""
        return self.path.name == "__init__.py"

    @cached_property
    def tree(self) -> ast.Module:
        """The module's syntax tree."""
        return ast.parse(self.source, str(self.path))

    @cached_property
    def imported(self) -> frozenset[str]:
        """Full names of all imports at any place: `from a.b import c` is "a.b.c"."""
        return frozenset(name for node in ast.walk(self.tree) for name in imported_names(node))


def imported_names(node: ast.AST) -> Iterator[str]:
    """The names that a statement imports; relative imports are not read."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


@dataclass(frozen=True)
class Package:
    """All modules of a package."""

    name: str
    folder: Path
    modules: Mapping[str, Module]

    @cached_property
    def module_graph(self) -> Graph:
        """The modules that each module imports."""
        return {name: frozenset(self._used(module)) - {name} for name, module in self.modules.items()}

    @cached_property
    def loose(self) -> frozenset[str]:
        """The files at the top."""
        return frozenset(path.stem for path in self.folder.glob("*.py"))

    @cached_property
    def rooms(self) -> frozenset[str]:
        """The files at the top, and the folders there that hold anything but Python's caches."""
        held = {path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file()}
        folders = {path.parts[0] for path in held if len(path.parts) > 1 and "__pycache__" not in path.parts}
        return self.loose | folders

    @cached_property
    def room_graph(self) -> Graph:
        """The rooms that each room imports from."""
        rooms = {name: module.room for name, module in self.modules.items()}
        arrows = {(rooms[a], rooms[b]) for a, used in self.module_graph.items() for b in used}
        return {room: frozenset(b for a, b in arrows if a == room and b != room) for room in self.rooms}

    @cached_property
    def only_users(self) -> Mapping[str, str]:
        """The modules that one module imports and no other, each with its user.

        The package's own `__init__`, which only re-exports names, is neither.
        """
        users: dict[str, list[str]] = {name: [] for name in self.modules if name}
        for user in users:
            for used in self.module_graph[user] & users.keys():
                users[used].append(user)
        return {name: by[0] for name, by in users.items() if len(by) == 1}

    def _used(self, module: Module) -> Iterator[str]:
        prefix = f"{self.name}."
        for name in module.imported:
            if name.startswith(prefix):
                yield self._home(name.removeprefix(prefix))

    def _home(self, name: str) -> str:
        """The module of an imported name: the name itself, or the module that defines it."""
        while name and name not in self.modules:
            name = name.rpartition(".")[0]
        return name


def read_package(root: Path, name: str) -> Package:
    """Read all files of the package in this folder. Raises FileNotFoundError where there are none."""
    folder = root / name
    paths = sorted(folder.rglob("*.py"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no Python files")
    modules = [Module(module_name(path, folder), path, path.read_text(encoding="utf-8")) for path in paths]
    return Package(name, folder, {module.name: module for module in modules})


def module_name(path: Path, folder: Path) -> str:
    """The dotted name of a file inside a package's folder."""
    parts = path.relative_to(folder).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def reachable(graph: Graph) -> dict[str, set[str]]:
    """All names that can be reached from each name."""
    found: dict[str, set[str]] = {}
    for start in graph:
        found[start], waiting = set(), [start]
        while waiting:
            new = graph[waiting.pop()] - found[start]
            found[start] |= new
            waiting += new
    return found


def circles(graph: Graph) -> list[list[str]]:
    """Strongly connected components of more than one name, sorted."""
    reach = reachable(graph)
    groups = {tuple(sorted({name, *(b for b in reach[name] if name in reach[b])})) for name in graph}
    return sorted(list(group) for group in groups if len(group) > 1)


def longest_chain(graph: Graph) -> list[str]:
    """Longest path along the arrows; a circle counts as one name, its first."""
    first = {name: circle[0] for circle in circles(graph) for name in circle}
    heads = {name: first.get(name, name) for name in graph}
    merged: dict[str, set[str]] = {head: set() for head in heads.values()}
    for name, used in graph.items():
        merged[heads[name]] |= {heads[b] for b in used} - {heads[name]}
    reach = reachable({head: frozenset(used) for head, used in merged.items()})
    best: dict[str, list[str]] = {}
    for head in sorted(merged, key=lambda head: (len(reach[head]), head)):
        best[head] = [head, *max((best[b] for b in sorted(merged[head])), key=len, default=[])]
    return max(best.values(), key=len, default=[])
