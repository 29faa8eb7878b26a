"""The product's names and prose use the field's words: none of the metaphors that stood for them comes back."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Each has a plain word: a value is `raw`, `headers` or `answer`; a callback is called; a route is paused; a worker is idle.
METAPHORS = re.compile(
    r"\b(told|tells?(?!\()|telling|hears?|heard|hungry|hushed|resting|purse|desk|turnstile|parcel|lasting)\b",
    re.IGNORECASE,
)


def test_no_metaphor_stands_for_a_term() -> None:
    """In code, comments and docstrings; `file.tell()` is Python's."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {word[0]}"
        for folder in ("worker", "api_schemas", "stockpot")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in {".py", ".lua"}
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for word in METAPHORS.finditer(line)
        if f"def {word[0]}(" not in line
    ]
    assert found == []
