"""JSON lines and texts of other makings that people take for batch files, and the command that makes one of each.

Recognised by the first lines: an Anthropic or Gemini batch, fine-tuning examples, bare request bodies,
prompts, answers, an export of one object, Python's own notation, a page of HTML, plain text.
"""

from __future__ import annotations

import shlex
from typing import Any

from api_schemas import jsontext
from worker.batches.converting import Given

#: Fields that hold a prompt, in files of prompts.
PROMPTS = ("prompt", "question", "instruction", "input", "text")
#: Lines are counted, since jq's own number of a line stands twice where the last one has no end. `$x` is what a line has.
_LINE = 'foreach %s as $x (0;.+1;{custom_id:tostring,method:"POST",url:"/v1/chat/completions",body:($x|%s)})'
_ASKED = '{model:"MODEL",messages:[{role:"user",content:%s}]}'
_ANTHROPIC = (
    '{custom_id,method:"POST",url:"/v1/chat/completions",body:(.params|{model,max_tokens,messages:'
    '((if .system then [{role:"system",content:.system}] else [] end)+.messages)})}'
)
_GEMINI = (
    '{custom_id:.key,method:"POST",url:"/v1/chat/completions",body:{model:"MODEL",messages:[.request.contents[]|'
    '{role:(if .role=="model" then "assistant" else "user" end),content:([.parts[].text]|join(""))}]}}'
)


def other_json(given: Given, first: bytes) -> str | None:
    """What JSON of another making a file with this first line has, and how to convert it; None: it may be a batch file."""
    if first.startswith((b"{'", b"{ '")):
        program = 'import ast,json;[print(json.dumps(ast.literal_eval(l))) for l in open(0,encoding="utf-8-sig") if l.strip()]'
        command = given.through(f"python3 -c {shlex.quote(program)}")
        return f"{given.name} is written as Python shows a dict, not as JSON: {command}"
    if first.endswith(b"},") and _one(first[:-1]) is not None:
        return f"{given.name} has a comma behind each line: {given.through(_NO_COMMAS)}"
    line = _one(first)
    if line is None and _several(first):
        return f"{given.name} has several requests in a line: {given.through('jq -c .')}"
    if line is None or line.keys() & {"url", "body", "method"}:
        return None
    what, program = _made(line)
    if not what:
        return None
    return f"{given.name} {what}" + (f": {given.through(program)}" if program else "")


_NO_COMMAS = "sed 's/,[[:space:]]*$//'"


def _jq(program: str) -> str:
    return f"jq -c {shlex.quote(program)}"


def _counted(body: str, *, options: str = "-nc", lines: str = "inputs") -> str:
    """The command that makes a request of each line, whose ids count them."""
    return f"jq {options} {shlex.quote(_LINE % (lines, body))}"


def _made(line: dict[str, Any]) -> tuple[str, str]:
    """What made a line with these fields, and the command that makes a request of it."""
    if "custom_id" in line and line.keys() & {"response", "result"}:
        return "holds answers, not requests; submit the file that was asked with", ""
    if isinstance(line.get("params"), dict) and "custom_id" in line:
        return "is a batch for Anthropic's API", _jq(_ANTHROPIC)
    if isinstance(line.get("request"), dict) and isinstance(line["request"].get("contents"), list):
        return "is a batch for Gemini's API; with your MODEL", _jq(_GEMINI)
    if isinstance(line.get("messages"), list) and "model" in line:
        return "has bodies of requests only", _counted(".")
    if isinstance(line.get("messages"), list):
        return "has conversations without a model; with your MODEL", _counted('{model:"MODEL",messages}')
    for field in PROMPTS:
        if isinstance(line.get(field), str):
            return f"has prompts, not requests; with your MODEL, of the field {field}", _counted(_ASKED % f".{field}")
    for field, value in line.items():
        if field.isidentifier() and isinstance(value, list) and value and isinstance(value[0], dict):
            return f"is one JSON object with a list of {field}, not a request per line", _jq(f".{field}[]")
    return "", ""


def other_text(given: Given, lines: list[bytes]) -> str | None:
    """What text or data that is no JSON lines a file with these lines has; None: some line of it may be JSON."""
    name = given.name
    if any(line.lstrip().startswith(b"{") for line in lines):
        return None
    if lines[0].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<")):
        return f"{name} is HTML or XML (the page of an error or of a login?), not a request per line"
    if not all(_is_text(line) for line in lines):
        return f"{name} is no text in UTF-8, and of no format that is known here: expected a request in JSON per line"
    if any(line.lstrip().startswith((b"[", b'"', b"//", b"#")) for line in lines):
        return None
    command = _counted(_ASKED % r'ltrimstr("\ufeff")', options="-nRc", lines=r'(inputs|select(test("\\S")))')
    return f"{name} is plain text, not JSON; a prompt per line, with your MODEL: {given.through(command)}"


def foreign_encoding(given: Given, lines: list[bytes]) -> str | None:
    """Whether JSON lines are in an older encoding: a quarter of them is no UTF-8, and none with accents is."""
    wrong = 0
    for line in lines:
        if line.isascii():
            continue
        if _is_text(line):
            return None
        wrong += 1
    if wrong < 2 or 4 * wrong < len(lines):
        return None
    command = given.through("iconv -f WINDOWS-1252 -t UTF-8")
    return f"{given.name} is not UTF-8 (Windows-1252 or Latin-1?): {command}"


def _is_text(line: bytes) -> bool:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return False
    return not any(one < " " and one not in "\t\r\f\v" for one in text)


def _one(line: bytes) -> dict[str, Any] | None:
    try:
        found = jsontext.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _several(line: bytes) -> bool:
    """Whether a line begins with a JSON object and another one behind it."""
    at = line.find(b"}{")
    while at >= 0:
        if _one(line[: at + 1]) is not None:
            return True
        at = line.find(b"}{", at + 1)
    return False
