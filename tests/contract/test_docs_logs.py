"""`docs/logs.md` and the log calls in the code say the same."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")
LEVELS = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "exception": "error",
    "critical": "critical",
}
#: These log an event that their caller names, as their last argument.
LOGS_FOR_ITS_CALLER = {"try_write", "try_read", "run_apart", "take_slice"}
#: Nothing that a prompt, an answer, a key or a whole URL might be called.
SECRET = {"prompt", "text", "body", "messages", "api_key", "secret", "url", "response", "authorization"}


def calls() -> Iterator[tuple[str, ast.Call, str]]:
    """Every call of a method in the product: where it is, itself, and the method's name."""
    for package in ("worker", "api_schemas"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node, node.func.attr


def is_log_call(node: ast.Call, method: str) -> bool:
    """Whether this is `log.<level>(…)`, or the same on a logger with bound ids."""
    target = node.func.value if isinstance(node.func, ast.Attribute) else None
    return method in LEVELS and isinstance(target, ast.Name) and target.id.strip("_") in {"log", "logger"}


def names(argument: ast.expr) -> set[str]:
    """The constant texts of an expression: one, or the two branches of a conditional."""
    if isinstance(argument, ast.IfExp):
        return names(argument.body) | names(argument.orelse)
    return {argument.value} if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else set()


def logged() -> dict[str, set[str]]:
    """The levels of every event in the code, by name."""
    found: dict[str, set[str]] = defaultdict(set)
    for where, node, method in calls():
        if method in LOGS_FOR_ITS_CALLER:
            for name in names(node.args[-1]):
                found[name].add("warning")
        elif is_log_call(node, method):
            static = names(node.args[0])
            passed_on = isinstance(node.args[0], ast.Name) and node.args[0].id == "event"
            assert static or passed_on, f"{where}: the event name is not static"
            for name in static:
                found[name].add(LEVELS[method])
    return found


def documented() -> dict[str, set[str]]:
    """The levels of every event in the table, by name."""
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|", DOCS, re.MULTILINE)
    assert rows == sorted(rows), "the table is in alphabetical order"
    return {name: set(levels.split(", ")) for name, levels in rows}


def test_the_table_of_events_is_what_the_code_logs() -> None:
    """Every event is documented with its level, and nothing else is."""
    assert documented() == logged()


def test_event_names_are_static_words() -> None:
    """So that they can be searched for."""
    assert [name for name in logged() if not re.fullmatch(r"[a-z]+(_[a-z]+)+", name)] == []


def test_no_log_call_has_a_field_that_would_carry_a_prompt_a_key_or_a_url() -> None:
    """Fields are ids, counts and errors."""
    fields = {
        f"{where} {keyword.arg}"
        for where, node, method in calls()
        if is_log_call(node, method)
        for keyword in node.keywords
        if keyword.arg in SECRET
    }
    assert fields == set()
