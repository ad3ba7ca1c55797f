"""The measures of the package's structure, on packages small enough to be counted by eye."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks.source_tree import circles, longest_chain, read_package
from benchmarks.structure import (
    Share,
    arrows_up,
    field_strings,
    is_typed,
    length,
    main,
    parameters,
    public_definitions,
    questions,
    read_floors,
    read_structure,
    table,
)

GRAPH = {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("bd"), "d": frozenset("e"), "e": frozenset[str]()}
"""A circle of b and c on the way from a to e."""

FILES = {
    "__init__.py": '"""The package."""\nfrom wsi_magnet.top import Shared',
    "ground.py": '"""Where all stands."""\n',
    "top.py": """
        '''The upper floor.'''
        from wsi_magnet.room.inner import read

        if TYPE_CHECKING:
            import wsi_magnet.ground

        class Shared:
            '''Shared values.'''
            size: int = 0
            '''How large.'''
            other = 1
            '''Another value.'''

            def grow(self, by: int) -> int:
                '''Growth.'''
                return by

            def _hidden(self, a, b, c, d, e, f, g, h):
                def inside():
                    from wsi_magnet.room import third
    """,
    "room/__init__.py": "",
    "room/inner.py": """
        from wsi_magnet.room.deep.third import *

        @decorated
        def read(path):
            pass

        class Shared: ...
    """,
    "room/deep/__init__.py": "",
    "room/deep/third.py": "from wsi_magnet import ground\nimport json, os.path\n",
    "room/third.py": "",
    "weights/model.bin": "",
    "stale/__pycache__/old.pyc": "",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(inspect.cleandoc(text) + "\n" if text else "")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout of the package in FILES, on three floors."""
    floors = 'GROUND = ("ground",)\nFLOORS: tuple = (GROUND, ("room",), ("top",))\n'
    write(tmp_path / "tests", {"test_imports.py": floors})
    write(tmp_path / "wsi_magnet", FILES)
    return tmp_path


def function(source: str) -> ast.FunctionDef:
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef)
    return node


def test_imports_are_told_by_module_and_by_room(root: Path) -> None:
    package = read_package(root, "wsi_magnet")
    assert {name: set(used) for name, used in package.module_graph.items() if used} == {
        "": {"top"},
        "top": {"ground", "room.inner", "room.third"},
        "room.inner": {"room.deep.third"},
        "room.deep.third": {"ground"},
    }
    assert {room: set(used) for room, used in package.room_graph.items()} == {
        "__init__": {"top"},
        "ground": set(),
        "room": {"ground"},
        "top": {"ground", "room"},
        "weights": set(),
    }


def test_rooms_are_files_at_the_top_and_folders_that_hold_something(root: Path) -> None:
    package = read_package(root, "wsi_magnet")
    assert package.loose == {"__init__", "ground", "top"}
    assert package.rooms == {"__init__", "ground", "top", "room", "weights"}


def test_an_only_user_is_no_package_that_passes_names_on(root: Path) -> None:
    assert read_package(root, "wsi_magnet").only_users == {
        "room.inner": "top",
        "room.deep.third": "room.inner",
        "room.third": "top",
    }


def test_circles_and_the_longest_chain() -> None:
    assert circles(GRAPH) == [["b", "c"]]
    assert longest_chain(GRAPH) == ["a", "b", "d", "e"]
    assert circles({"a": frozenset()}) == []
    assert longest_chain({}) == []


def test_arrows_up_end_on_the_same_floor_or_above() -> None:
    graph = {"a": frozenset("bz"), "b": frozenset("ac"), "c": frozenset[str](), "z": frozenset("a")}
    assert arrows_up(graph, [["a"], ["b", "c"]]) == ["a -> b", "b -> c"]


@pytest.mark.parametrize(
    ("source", "floors"),
    [
        ("FLOORS = (('a', 'b'), ('c',))", (("a", "b"), ("c",))),
        ("A = ('a',)\nB = (*A, 'b')\nFLOORS: tuple[tuple[str, ...], ...] = (B, ('c',))", (("a", "b"), ("c",))),
        ("FLOORS = read()", None),
        ("OTHER = 1", None),
    ],
)
def test_floors_are_read_without_running_the_file(tmp_path: Path, source: str, floors: object) -> None:
    (tmp_path / "test_imports.py").write_text(source)
    assert read_floors(tmp_path / "test_imports.py") == floors
    assert read_floors(tmp_path / "absent.py") is None


def test_functions_are_measured_from_def_to_end() -> None:
    one = function(
        "@decorated\ndef f(self, a, /, b: int, *c: int, d: int = 0, **e: int) -> None:\n    '''F.'''\n    pass"
    )
    assert length(one) == 3
    assert [parameter.arg for parameter in parameters(one)] == ["a", "b", "d", "c", "e"]
    assert not is_typed(one)
    assert is_typed(function("def f(self, a: int) -> None: ..."))
    assert not is_typed(function("def f(self, a: int): ..."))


def test_public_definitions_are_those_that_a_user_sees() -> None:
    source = "class A:\n  def b(self):\n    def c(): ...\n  def _d(self): ...\n"
    source += "class _E:\n  def f(self): ...\nasync def g(): ..."
    assert [node.name for node in public_definitions(ast.parse(source).body)] == ["A", "b", "g"]


def test_field_strings_stand_below_assignments() -> None:
    source = "'''Module.'''\na = 1\n'''A.'''\n"
    source += "class B:\n  '''B.'''\n  c: int\n  '''C.'''\n  d: int\n  1\nprint()\n'''Loose.'''"
    assert field_strings(ast.parse(source)) == ["A.", "C."]


def test_a_question_begins_with_its_word() -> None:
    texts = ["What is left.", "\n  Whether it is.", "Whatever.", "The whole.", "who knows."]
    assert questions(texts) == Share(2, 5)
    assert str(questions(texts)) == "2 of 5 (40.0%)"
    assert str(questions([])) == "0 of 0 (-)"


def test_all_measures_of_a_checkout(root: Path) -> None:
    assert read_structure(root).measures == {
        "files": 8,
        "modules (without `__init__`)": 5,
        "lines": 32,
        "lines of a file: median": 1.5,
        "lines of a file: 90th percentile": 20,
        "lines of a file: most": 20,
        "modules under 40 lines": 5,
        "functions": 4,
        "lines of a function: median": 2.5,
        "lines of a function: 90th percentile": 3,
        "lines of a function: most": 3,
        "functions of 8 parameters or more": 1,
        "functions of 12 parameters or more": 0,
        "rooms": 5,
        "files loose at the top": 3,
        "floors: longest chain of rooms": 4,
        "floors of tests/test_imports.py": 3,
        "arrows between rooms": 4,
        "arrows between modules": 6,
        "arrows up between rooms": 0,
        "circles of rooms": 0,
        "circles of modules": 0,
        "modules with one user": 3,
        "lines of modules with one user": 9,
        "public names defined in two modules or more": 1,
        "public functions with types": Share(1, 2),
        "public functions with a docstring": Share(1, 2),
        "docstrings that begin as a question": Share(0, 2),
        "those of modules that do": Share(1, 3),
        "field strings that do": Share(1, 2),
    }


def test_names_behind_the_figures_are_told(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(root), "--json", str(tmp_path / "figures.json")]) == 0
    told = json.loads((tmp_path / "figures.json").read_text())["value"]
    assert told["measures"]["public functions with types"] == {"part": 1, "whole": 2}
    assert told["names"]["longest chain of rooms"] == ["__init__", "top", "room", "ground"]
    assert told["names"]["public names defined in two modules or more"] == {"Shared": ["room.inner", "top"]}
    assert capsys.readouterr().out.splitlines()[2].split() == ["|", "files", "|", "8", "|"]


def test_two_checkouts_stand_side_by_side(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    after = write(tmp_path / "after", {"wsi_magnet/__init__.py": ""})
    assert main([str(root), str(after)]) == 0
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["measure", "before", "after"]
    assert lines[2] == ["files", "8", "1"]
    assert ["arrows up between rooms", "0", "-"] in lines


def test_a_table_is_markdown() -> None:
    assert table({"before": {"lines": 1234, "median": 7.5, "floors": None}}) == [
        "| measure | before |",
        "|---------|-------:|",
        "| lines   |  1,234 |",
        "| median  |    7.5 |",
        "| floors  |      - |",
    ]


def test_a_folder_without_the_package_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "holds no Python files" in capsys.readouterr().err


@cache
def measures_of_this_checkout() -> Mapping[str, Any]:
    return read_structure(Path(__file__).resolve().parent.parent).measures


@pytest.mark.slow
def test_this_checkout_imports_without_circles_and_never_up() -> None:
    measures = measures_of_this_checkout()
    for name in ("arrows up between rooms", "circles of rooms", "circles of modules"):
        assert measures[name] == 0


def test_no_docstring_of_this_checkout_begins_as_a_question() -> None:
    measures = measures_of_this_checkout()
    for name in ("docstrings that begin as a question", "those of modules that do", "field strings that do"):
        share = measures[name]
        assert isinstance(share, Share)
        assert share.part == 0, name
