"""Documents: links, paths, commands and the map of the code in DESIGN.md point to things that exist."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "pipelines" / "README.md")
FOLDERS = ("wsi_magnet/", "tests/", "benchmarks/", "drill/", "docs/", "pipelines/", "demo/")
"""Folders of the repository that paths in documents begin with."""

EXAMPLES = {"wsi_magnet/x/y.py", "tests/x/test_y.py", "methods/"}
"""Paths that stand for others, or for what is to come."""


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_paths_of_the_repository_exist(page: Path) -> None:
    for path in re.findall(r"`([\w./-]+)`", page.read_text(encoding="utf-8")):
        if path.startswith(FOLDERS) and path not in EXAMPLES:
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_modules_and_targets_of_commands_exist(page: Path) -> None:
    text = " ".join(page.read_text(encoding="utf-8").split())
    for module in re.findall(r"python -m ((?:benchmarks|drill)[\w.]*)", text):
        assert find_spec(module.rstrip(".")), module
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for target in re.findall(r"`make ([\w-]+)", text):
        assert target in targets, target


def code_map() -> str:
    """The section of DESIGN.md about the code."""
    return (ROOT / "DESIGN.md").read_text(encoding="utf-8").partition("\n## The code\n")[2].partition("\n## ")[0]


def test_the_map_of_the_code_names_files_that_exist() -> None:
    package = ROOT / "wsi_magnet"
    known = {path.relative_to(package).as_posix() + "/" * path.is_dir() for path in package.rglob("*")}
    ends = {"/".join(path.rstrip("/").split("/")[i:]) + "/" * path.endswith("/") for path in known for i in range(4)}
    for path in re.findall(r"`([\w./]+(?:\.py|/))`", code_map()):
        if not path.startswith(FOLDERS) and path not in EXAMPLES:
            assert path in ends, path


def test_the_map_of_the_code_has_every_package_and_file_at_the_top() -> None:
    package = ROOT / "wsi_magnet"
    folders = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists()}
    files = {path.name for path in package.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert {name for name in folders | files if f"`{name}`" not in code_map()} == set()


@pytest.mark.parametrize("name", ["DESIGN.md", "CONTRIBUTING.md"])
def test_classes_that_documents_name_exist(name: str) -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "wsi_magnet").rglob("*.py"))
    classes = {*re.findall(r"^class (\w+)", source, re.MULTILINE), "DataLoader", "Path"}
    text = (ROOT / name).read_text(encoding="utf-8")
    assert {word for word in re.findall(r"`([A-Z][a-z]+\w*)`", text) if word not in classes} == set()
