"""The cheap proof that a line of a batch file is good: most are plain, and a million of them shall cost seconds.

What is proved here needs no other check. What is not may still be good: the full checks decide and report what is wrong.
So nothing is ever accepted that they would refuse, and no message is made here.
"""

from __future__ import annotations

from typing import Any

import orjson

from api_schemas.bodies import MAX_ITEMS
from api_schemas.chat import MODEL_LENGTH
from api_schemas.jsontext import MAX_DEPTH

#: Every integer beyond 64 bits has 19 digits or more; orjson would read it as a rounded float. (It refuses infinity.)
_DIGITS = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_TOO_LONG = b"0" * 19
#: NUL and halves of surrogate pairs come into valid UTF-8 by these escapes only.
_ESCAPES = (b"\\u0000", b"\\ud", b"\\uD")

_NONE = type(None)
_Kinds = tuple[type, ...]
_FLAG: _Kinds = (bool, _NONE)
_NUMBER: _Kinds = (int, float, _NONE)
_WHOLE: _Kinds = (int, _NONE)
_OBJECT: _Kinds = (dict, _NONE)
_TEXT: _Kinds = (str, _NONE)
_NEVER: _Kinds = ()
_COMMON: dict[str, _Kinds] = {
    "model": (str,),
    "stream": _FLAG,
    "stream_options": _OBJECT,
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "parallel_tool_calls": _FLAG,
    "metadata": _OBJECT,
    "tools": _NEVER,
}
#: What a field may be to be plain, by endpoint; fields that are not named are the provider's business.
FIELDS: dict[str, dict[str, _Kinds]] = {
    "/v1/chat/completions": {
        **_COMMON,
        "messages": (list,),
        "max_tokens": _WHOLE,
        "max_completion_tokens": _WHOLE,
        "n": _WHOLE,
        "seed": _WHOLE,
        "frequency_penalty": _NUMBER,
        "presence_penalty": _NUMBER,
        "response_format": _OBJECT,
        "logprobs": _FLAG,
        "top_logprobs": _WHOLE,
    },
    "/v1/responses": {
        **_COMMON,
        "input": (str, list),
        "background": _NEVER,
        "instructions": _TEXT,
        "include": _NEVER,
        "max_output_tokens": _WHOLE,
        "previous_response_id": _TEXT,
        "prompt": _OBJECT,
        "store": _FLAG,
        "text": _OBJECT,
        "reasoning": _OBJECT,
        "truncation": _TEXT,
    },
}
#: Whole numbers that are counts: at least 1.
COUNTS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n")


def plain_document(raw: bytes) -> dict[str, Any] | None:
    """Read one line if it is a JSON object within the limits of a request, beyond doubt; None is a doubt.

    Raises nothing. Size in bytes is the caller's to check.
    """
    if _TOO_LONG in raw.translate(_DIGITS):
        return None
    # A bracket inside a text counts, too: then the full check looks at the real depth.
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH:
        return None
    if b"\\" in raw and any(escape in raw for escape in _ESCAPES):
        return None
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return document if type(document) is dict else None


def plain_body(endpoint: object, body: object) -> bool:
    """Whether a body is one that its endpoint's full check accepts, beyond doubt."""
    fields = FIELDS.get(endpoint) if type(endpoint) is str else None
    if fields is None or type(body) is not dict:
        return False
    for name, value in body.items():
        kinds = fields.get(name)
        if kinds is not None and type(value) not in kinds:
            return False
    model = body.get("model", "")
    if not 0 < len(model) <= MODEL_LENGTH or not model.isprintable():
        return False
    for name in COUNTS:
        if name in body and name in fields and body[name] is not None and body[name] < 1:
            return False
    return _plain_messages(body.get("messages")) if "messages" in fields else _plain_input(body.get("input"))


def _plain_messages(messages: Any) -> bool:
    if not messages or len(messages) > MAX_ITEMS:
        return False
    for message in messages:
        if type(message) is not dict or "tool_calls" in message:
            return False
        role, content = message.get("role"), message.get("content")
        if type(role) is not str or not role:
            return False
        if type(content) is not str and content is not None and not _parts(content):
            return False
    return True


def _parts(content: Any) -> bool:
    return type(content) is list and all(type(part) is dict or type(part) is str for part in content)


def _plain_input(given: Any) -> bool:
    if type(given) is list:
        return 0 < len(given) <= MAX_ITEMS and all(type(item) is dict for item in given)
    return type(given) is str
