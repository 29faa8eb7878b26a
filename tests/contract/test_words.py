"""The product's names and prose use the field's words: none of the metaphors that stood for them comes back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Each has a plain word: a value is `raw`, `headers` or `answer`; a callback is called; a route is paused; a worker is idle.
METAPHORS = re.compile(
    r"\b(told|tells?(?!\()|telling|hears?|heard|hungry|hushed|resting|purse|desk|turnstile|parcel|lasting)\b",
    re.IGNORECASE,
)
#: A sentence names its subject (a worker, the caller, the operator) and a verb that a thing can do (holds, shows, means).
NAMELESS = re.compile(
    r"\b(some(body|one)|any(body|one)|every(body|one)|nobody|whoever|says|said|saying|say(?!\())\b", re.IGNORECASE
)
#: `output.say` writes a line for people to stderr.
_SAY = re.compile(r"^from .* import |^__all__ = |, say\)")


def _lines() -> Iterator[tuple[str, str]]:
    for folder in ("worker", "api_schemas", "stockpot", "migrations"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".lua", ".html", ".css"} or path.name == "dash.js":
                for number, line in enumerate(path.read_text().splitlines(), 1):
                    yield f"{path.relative_to(ROOT)}:{number}", line


def test_no_metaphor_stands_for_a_term() -> None:
    """In code, comments and docstrings; `file.tell()` is Python's."""
    found = [
        f"{where}: {word[0]}"
        for where, line in _lines()
        for word in METAPHORS.finditer(line)
        if f"def {word[0]}(" not in line
    ]
    assert found == []


def test_sentences_name_their_subject() -> None:
    """Not "whoever": a worker, a reader, the operator; not "says": states, holds, means."""
    found = [
        f"{where}: {word[0]}"
        for where, line in _lines()
        for word in NAMELESS.finditer(line)
        if word[0] != "say" or not _SAY.search(line)
    ]
    assert found == []
