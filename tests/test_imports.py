"""The house's rules, read off the source: imports run downward, each outside library has one door, nothing goes out.

Every import counts, wherever it stands: at the top, inside a function, or for the type checker only.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "wsi_magnet"

GROUND = ("_version", "errors", "geometry", "labels", "system", "text")

FLOORS: tuple[tuple[str, ...], ...] = (
    GROUND,
    ("schema",),
    ("values",),
    ("config", "magnet", "metrics", "scales", "storage"),
    ("nets", "polygons", "runtime", "slides"),
    ("methods",),
    ("planning",),
    ("results",),
    ("annotations", "export", "inference"),
    ("dataset", "report", "worker"),
    ("segment", "train"),
    ("cohort", "doctor", "evaluate"),
    ("cli",),
    ("__main__",),
)
"""Rooms, each a module or a folder of the package, from the ground up. A room imports from the floors below its own,
never from a neighbour."""

NARROW = {
    "magnet": (*GROUND,),  # is handed tensors and callables: knows neither networks nor slides
    "runtime": (*GROUND, "config", "schema", "storage", "values"),  # knows no pathology
    "export": (*GROUND, "config", "storage", "results"),  # knows only what lies in a result
}
"""Rooms that may use less than all that lies below them."""

DOORS = {
    "openslide": ("slides.openslide",),
    "zarr": ("results.pyramid",),
    "fsspec": ("storage.location",),
    "dask": ("results.pyramid", "runtime", "system"),
    "distributed": ("runtime",),
    "dask_jobqueue": ("runtime.clusters.batch",),
    "onnxruntime": ("nets.model_file",),
    "timm": ("nets.outside",),
    "torchvision": ("nets.outside",),
    "segmentation_models_pytorch": ("nets.outside",),
    "click": ("cli",),
    "jinja2": ("report.render",),
    "rich": ("cli", "segment.progress"),
}
"""Outside libraries, and the only module or folder that imports them."""

NETWORK = {"aiohttp", "ftplib", "http", "httpx", "huggingface_hub", "pooch", "requests", "smtplib"}
NETWORK |= {"aiobotocore", "boto3", "botocore", "s3fs"}
NETWORK |= {"torch.hub", "torch.utils.model_zoo", "urllib.request", "urllib3", "xmlrpc"}
"""Nothing is fetched, at import or at run time. (Dask's workers talk to their scheduler, behind its door; behind
fsspec's lies what a user named by a URL.)"""

PICKLE = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
"""No file that a stranger made may run code."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, ast.Module]:
    """Modules by their name inside the package; "" is the package's own `__init__`."""
    paths = sorted((ROOT / PACKAGE).rglob("*.py"))
    return {name_of(path): ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in paths}


def imported(tree: ast.AST) -> Iterator[str]:
    """Every name imported, dotted and in full: `from a.b import c` is "a.b.c"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def room(module: str) -> str:
    return module.partition(".")[0]


def used_rooms(tree: ast.AST) -> set[str]:
    inside = (name.removeprefix(f"{PACKAGE}.") for name in imported(tree) if within(name, PACKAGE))
    return {room(name) for name in inside}


def allowed_rooms(own: str) -> set[str]:
    floor = next(i for i, rooms in enumerate(FLOORS) if own in rooms)
    below = {name for rooms in FLOORS[:floor] for name in rooms}
    return (set(NARROW[own]) if own in NARROW else below) | {own}


inner_modules = pytest.mark.parametrize("module", sorted(set(modules()) - {""}))


@inner_modules
def test_imports_run_downward(module: str) -> None:
    assert any(room(module) in rooms for rooms in FLOORS), f"give {module} a floor in FLOORS"
    assert used_rooms(modules()[module]) <= allowed_rooms(room(module))


@inner_modules
def test_outside_libraries_are_imported_at_their_door(module: str) -> None:
    names = list(imported(modules()[module]))
    for library, doors in DOORS.items():
        if not any(within(module, door) for door in doors):
            assert not [name for name in names if within(name, library)]


@inner_modules
def test_nothing_goes_out_and_nothing_is_unpickled(module: str) -> None:
    names = list(imported(modules()[module]))
    assert not [name for name in names for banned in NETWORK | PICKLE if within(name, banned)]


@inner_modules
def test_checkpoints_are_read_as_weights_only(module: str) -> None:
    for node in ast.walk(modules()[module]):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert "weights_only=True" in [ast.unparse(keyword) for keyword in node.keywords]


def test_the_package_itself_is_a_thin_door() -> None:
    tree = modules()[""]
    at_import = [name for node in tree.body if not isinstance(node, ast.If) for name in imported(node)]
    assert [name for name in at_import if within(name, PACKAGE)] == ["wsi_magnet._version.__version__"]


def test_nothing_in_the_package_imports_the_pipelines_or_the_tests() -> None:
    for tree in modules().values():
        assert not [name for name in imported(tree) if within(name, "pipelines") or within(name, "tests")]


def test_the_rules_see_every_form_of_import() -> None:
    source = "import a.b as c\nfrom d.e import f\ndef g():\n    from h import i\nif TYPE_CHECKING:\n    import j"
    assert set(imported(ast.parse(source))) == {"a.b", "d.e.f", "h.i", "j"}
