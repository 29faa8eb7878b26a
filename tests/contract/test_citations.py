"""What a comment or a page cites exists in this repository: keys of the glossary and the fault matrix, and decisions."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
DECISIONS = sorted((ROOT / "ops/decisions").glob("[0-9]*.md"))
KEY = re.compile(r"\b([PTUSDFG][0-9]{1,2})\b")


def texts() -> dict[str, str]:
    """The code and the pages that cite, by path; what a string of a test may hold by chance is left out."""
    listed = subprocess.run(
        ["git", "ls-files", "worker/*.py", "api_schemas/*.py", "migrations/*.py", "ops/decisions/*.md", "docs/*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in listed if (ROOT / name).exists()}


def known_keys() -> set[str]:
    """The keys that the glossary explains and those of the fault matrix, ranges spelled out."""
    known = set(
        re.findall(r"^\| ([A-Z][0-9]+) \|", (ROOT / "docs/glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    matrix = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    known |= set(re.findall(r"\b([FG][0-9]+)\b", matrix))
    for letter, first, last in re.findall(r"\b([FG])([0-9]+)\*?–[FG]([0-9]+)\b", matrix):
        known |= {f"{letter}{number}" for number in range(int(first), int(last) + 1)}
    return known


def test_every_key_that_is_cited_is_explained() -> None:
    known = known_keys()
    strange = {
        f"{name}: {key}"
        for name, text in texts().items()
        for line in text.splitlines()
        for key in KEY.findall(line)
        if key not in known and (name.endswith(".md") or "#" in line or "RELIABILITY" in line)
    }
    assert not strange


def test_decisions_have_one_number_each_and_those_cited_exist() -> None:
    numbers = [int(path.name[:4]) for path in DECISIONS]
    assert len(numbers) == len(set(numbers))
    for name, text in texts().items():
        for cited in re.findall(r"\bADRs? ([0-9]+)", text):
            assert int(cited) in numbers, f"{name} cites ADR {cited}"
