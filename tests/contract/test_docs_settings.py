"""docs/settings.md lists every setting with its default, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic_core import PydanticUndefined

from worker.base.settings import NOT_SETTINGS, Settings
from worker.base.sources import variable

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
#: Defaults that follow from other settings are told in words.
IN_WORDS = {"database_url": "the home's `stockpot.db`", "broker_url": "the Redis URL"}


def rows() -> dict[str, str]:
    """The table: variable to default, as the page has them."""
    return dict(re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \|$", PAGE.read_text(), re.MULTILINE))


def test_the_page_lists_exactly_the_settings_that_exist() -> None:
    """A new setting needs its row; a row without a setting is a lie."""
    assert sorted(rows()) == sorted(variable(name) for name in Settings.model_fields)


def test_every_default_on_the_page_is_the_one_in_force() -> None:
    """Numbers are compared as numbers, what has no default says none."""
    wrong = {}
    for name, field in Settings.model_fields.items():
        told = rows()[variable(name)]
        assert field.default is not PydanticUndefined
        if name in IN_WORDS:
            expected = told == IN_WORDS[name]
        elif field.default is None:
            expected = told == "none"
        elif isinstance(field.default, bool):
            expected = told.strip("`") == str(field.default).lower()
        elif isinstance(field.default, int | float):
            expected = float(told.strip("`")) == field.default
        else:
            expected = told.strip("`") == str(field.default)
        if not expected:
            wrong[name] = (told, field.default)
    assert not wrong


def test_variables_that_are_no_settings_are_named_too() -> None:
    """What the prefix reserves is on the page."""
    assert all(f"`{name}`" in PAGE.read_text() for name in NOT_SETTINGS)
