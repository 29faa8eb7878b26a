"""Each package's `__init__` docstring is its map: it names every module of the package, and none that is not there.

So do the maps of the house and of the pages.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

WORKER = Path(__file__).resolve().parents[2] / "worker"
PACKAGES = sorted(
    path.parent for path in WORKER.rglob("__init__.py") if path.parent not in {WORKER, WORKER / "simulator"}
)


def modules(package: Path) -> set[str]:
    names = {path.stem for path in package.glob("*.py") if path.stem not in {"__init__", "__main__"}}
    return names | {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(WORKER)))
def test_the_map_names_each_module_with_a_line(package: Path) -> None:
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text()), clean=False) or ""
    rows = re.findall(r"^(?: {4})?([a-z_]+/?) {2,}\S", docstring, flags=re.MULTILINE)
    assert sorted(rows) == sorted(modules(package))


@pytest.mark.parametrize("page", ["worker/__init__.py", "docs/architecture.md"])
def test_the_map_of_the_house_names_each_room(page: str) -> None:
    """Who enters from the README comes here first: a room that is on no map is found by chance."""
    text = (WORKER.parent / page).read_text(encoding="utf-8")
    house = re.search(r'^"""(.*?)"""|^worker/ +(.*?)^migrations/', text, flags=re.MULTILINE | re.DOTALL)
    assert house is not None
    rooms = {path.parent.name for path in WORKER.glob("*/__init__.py")}
    assert rooms - set(re.findall(r"[a-z]+", house[0])) == set()


def test_the_list_of_pages_names_each_page() -> None:
    """The README shows six of them and this list."""
    docs = WORKER.parent / "docs"
    named = re.findall(r"\]\(([a-z_]+\.md)\)", (docs / "README.md").read_text(encoding="utf-8"))
    assert sorted(named) == sorted(page.name for page in docs.glob("[a-z]*.md"))


def test_nothing_is_loose_at_the_root() -> None:
    assert {path.name for path in WORKER.glob("*.py")} == {"__init__.py", "celery.py"}
