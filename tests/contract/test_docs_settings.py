"""`docs/settings.md` and `worker/settings.py` say the same."""

from __future__ import annotations

import re
from pathlib import Path

from worker.settings import PREFIX, Settings

DOCS = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")


def test_the_tables_of_settings_are_the_configuration() -> None:
    """Every name with its default, and no other name."""
    rows = re.findall(r"^\| `(STOCKPOT_\w+)` \| (.*?) \|", DOCS, re.MULTILINE)
    defaults = {
        PREFIX + name.upper(): "none" if field.default in (None, "") else f"`{field.default}`"
        for name, field in Settings.model_fields.items()
    }
    assert dict(rows) == defaults
    assert len(rows) == len(defaults), "a setting is listed twice"
