"""`docs/simulator.md` and the simulator say the same."""

from __future__ import annotations

import re
from pathlib import Path

from worker.simulator.config import SimulatorConfig
from worker.simulator.script import STEPS, parse

DOCS = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """One section's text."""
    return DOCS.split(f"## {title}\n")[1].split("\n## ")[0]


def first_cells(text: str) -> list[str]:
    """The code spans in the first cell of each table row."""
    rows = re.findall(r"^\| (`.*?) (?<!\\)\|", text, re.MULTILINE)
    return [span for row in rows for span in re.findall(r"`([^`]+)`", row)]


def test_the_table_of_steps_is_the_vocabulary() -> None:
    """Every step is documented, and nothing else is."""
    spans = first_cells(section("Scripts"))
    named = {span if span in STEPS else re.split(r"[=@]", span)[0] for span in spans} - {"N"}
    assert named == set(STEPS)


def test_every_documented_step_can_be_parsed() -> None:
    """With a number for its letters."""
    for span in first_cells(section("Scripts")):
        parse(re.sub(r"(?<=[=@])(N|MS|MB|S|X|URL)$", "5", span.replace("true\\|false", "true")).replace("N", "503"))


def test_the_table_of_settings_is_the_configuration() -> None:
    """Every setting is documented, and nothing else is."""
    assert set(first_cells(section("Settings"))) == set(SimulatorConfig.model_fields)
