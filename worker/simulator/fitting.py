"""What a model makes of tools and schemas: which tool a request asks for, and values that fit a JSON schema. Pure.

A tool is called when the request forces one (`tool_choice`), or when its last turn is a user's that names the tool or
asks for "the tool". A structured answer (`json_schema`, `json_object`) is given when the request asks for it. Numbers
and texts come from the prompt where it has any (texts in quotation marks), so that "the value of f(3)" calls f with 3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.simulator.script import last_prompt

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.]*\w)")
_QUOTED = re.compile(r"""(?<!\w)(?:'([^'\n]+)'|"([^"\n]+)"|“([^”\n]+)”)""")
_NAMED = re.compile(r"`(\w+)`")
_WORD = re.compile(r"[a-z]{4,}")
#: Words of tools' names that do not describe a purpose.
_GENERIC = frozenset({"tool", "function", "call", "with", "from", "args"})
#: Schemas that refer to themselves end here.
_DEEPEST = 6
_FORMATS = {
    "date": "2026-01-31",
    "time": "12:00:00Z",
    "date-time": "2026-01-31T12:00:00Z",
    "email": "cook@example.com",
    "uri": "https://example.com/soup",
    "uuid": "0b8f4b52-62a5-4d3c-9e0a-7d5e2a1c9f10",
}


def asked_tool(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The function of the request that is to be called, None for an answer in words."""
    functions: list[Mapping[str, Any]] = [
        tool.get("function", tool) for tool in body.get("tools") or [] if tool.get("type") == "function"
    ]
    choice = body.get("tool_choice")
    if not functions or choice == "none":
        return None
    if isinstance(choice, dict):
        name = choice.get("function", choice).get("name")
        return next((function for function in functions if function.get("name") == name), functions[0])
    if choice in ("required", "any"):
        return functions[0]
    if not _ends_with_user(body):
        return None
    prompt = last_prompt(body).lower()
    named = next((function for function in functions if _is_named(str(function.get("name", "")), prompt)), None)
    return named or (functions[0] if re.search(r"\btools?\b", prompt) else None)


def asked_schema(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema that the answer must fit: the request's, or for `json_object` the keys that the prompt names."""
    text = body.get("text")
    wanted = body.get("response_format") or (text.get("format") if isinstance(text, dict) else None)
    if not isinstance(wanted, dict):
        return None
    if wanted.get("type") == "json_schema":
        inner = wanted.get("json_schema")
        schema = (inner if isinstance(inner, dict) else wanted).get("schema")
        return schema if isinstance(schema, dict) else {"type": "object"}
    if wanted.get("type") == "json_object":
        names = _NAMED.findall(last_prompt(body)) or ["answer"]
        return {"type": "object", "properties": {name: {"type": "string"} for name in names}}
    return None


@dataclass(slots=True)
class Fitting:
    """Makes values; the texts and the numbers are used up in order."""

    words: Iterator[str]
    numbers: Iterator[float]
    root: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, schema: Mapping[str, Any], words: Sequence[str], body: Mapping[str, Any]) -> Any:
        """A value that fits the schema."""
        numbers = [float(found) for found in _NUMBER.findall(last_prompt(body))]
        quoted = ["".join(found) for found in _QUOTED.findall(last_prompt(body))]
        return cls(iter([*quoted, *words]), iter(numbers), schema).value(schema, 0)

    def value(self, rule: Any, depth: int) -> Any:
        """A value that fits a rule of the schema."""
        rule = self._resolved(rule)
        if "const" in rule:
            return rule["const"]
        if rule.get("enum"):
            return rule["enum"][0]
        kind = rule.get("type")
        if isinstance(kind, list):
            kind = next((one for one in kind if one != "null"), "null")
        if kind is None:
            kind = "object" if "properties" in rule else "array" if "items" in rule else "string"
        match kind:
            case "object":
                return self._object(rule, depth)
            case "array":
                least = int(rule.get("minItems", 1 if "items" in rule and depth < _DEEPEST else 0))
                return [self.value(rule.get("items", {}), depth + 1) for _ in range(min(least, 100))]
            case "integer" | "number":
                return self._number(rule, whole=kind == "integer")
            case "boolean":
                return True
            case "null":
                return None
        return self._text(rule)

    def _resolved(self, rule: Any) -> dict[str, Any]:
        """The rule without references and alternatives."""
        for _ in range(_DEEPEST):
            if not isinstance(rule, dict):
                return {}
            if isinstance(name := rule.get("$ref"), str):
                rule = self._referred(name)
            elif options := rule.get("anyOf") or rule.get("oneOf"):
                rule = next((one for one in options if one.get("type") != "null"), options[0])
            elif all_of := rule.get("allOf"):
                merged = {key: value for key, value in rule.items() if key != "allOf"}
                for one in all_of:
                    merged = {**self._resolved(one), **merged}
                rule = merged
            else:
                break
        return rule if isinstance(rule, dict) else {}

    def _referred(self, name: str) -> Any:
        found: Any = self.root
        for step in name.removeprefix("#").strip("/").split("/"):
            found = found.get(step) if isinstance(found, dict) and step else found
        return found

    def _object(self, rule: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = rule.get("properties") or {}
        required = rule.get("required") or []
        wanted = properties if depth < _DEEPEST else {name: properties.get(name, {}) for name in required}
        return {name: self.value(inner, depth + 1) for name, inner in wanted.items()}

    def _number(self, rule: Mapping[str, Any], *, whole: bool) -> float | int:
        number = next(self.numbers, 7.0 if whole else 1.5)
        low, high = rule.get("minimum"), rule.get("maximum")
        if isinstance(low, int | float):
            number = max(number, low)
        if isinstance(high, int | float):
            number = min(number, high)
        return int(number) if whole else number

    def _text(self, rule: Mapping[str, Any]) -> str:
        if rule.get("format") in _FORMATS:
            return _FORMATS[rule["format"]]
        text = next(self.words, "broth").strip()
        least, most = rule.get("minLength"), rule.get("maxLength")
        if isinstance(least, int):
            text = text.ljust(min(least, 10_000), ".")
        return text[:most] if isinstance(most, int) else text


def _is_named(name: str, prompt: str) -> bool:
    if name.lower() in prompt:
        return True
    parts = set(_WORD.findall(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ").lower())) - _GENERIC
    return any(re.search(rf"\b{part}", prompt) for part in parts)


def _ends_with_user(body: Mapping[str, Any]) -> bool:
    """Whether the last turn is a user's: after a tool's result an answer in words is due."""
    turns = body.get("messages", body.get("input"))
    if isinstance(turns, str):
        return True
    last = turns[-1] if isinstance(turns, list) and turns else None
    if not isinstance(last, dict) or last.get("type", "message") != "message":
        return False
    return bool(last.get("role", "user") == "user")
