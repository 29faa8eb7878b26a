"""The lowest versions: what pyproject.toml allows is what `make test-floors` installs, and what the page promises."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKED = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements-floors.lock").read_text(), re.MULTILINE))
EXTRAS = [one for extra in PROJECT["optional-dependencies"].values() for one in extra]
#: psycopg 3.2.0 has no wheel with binaries; Celery allows no older click.
NEXT = {"psycopg": Version("3.2.1"), "click": Version("8.1.2")}


@pytest.mark.parametrize("line", [*PROJECT["dependencies"], *EXTRAS])
def test_the_lowest_version_that_is_allowed_is_the_one_that_is_tried(line: str) -> None:
    wanted = Requirement(line)
    [lowest] = [Version(one.version) for one in wanted.specifier if one.operator == ">="]
    assert Version(LOCKED[wanted.name]) == NEXT.get(wanted.name, lowest)


def test_the_page_names_the_versions_that_are_allowed() -> None:
    """In the sentence of what it runs beside, and in the table of what stays high."""
    page = (ROOT / "docs/into_your_project.md").read_text(encoding="utf-8").partition("## Versions")[2]
    names = {"SQLAlchemy": "sqlalchemy", "redis-py": "redis"}
    sentence = page.partition(" and newer")[0]
    told = re.findall(r"([A-Z]?[A-Za-z-]+) (\d[\d.]*\d)", sentence) + re.findall(
        r"^\| (\S+) (\d\S+) \|", page, re.MULTILINE
    )
    allowed = {Requirement(one).name: Requirement(one).specifier for one in [*PROJECT["dependencies"], *EXTRAS]}
    assert len(told) >= 10
    for name, version in told:
        assert f">={version}" in str(allowed[names.get(name, name.lower())]), (name, version)
