"""An upstream's error: the one reader of all the shapes that errors come in.

{"error": {"message", "type", "param", "code"}}                     OpenAI, Azure, Groq, DeepSeek, xAI, vLLM, LiteLLM …
{"error": {…, "metadata": {"raw", "provider_name"}}}                OpenRouter; `raw` is from the model's provider, a
                                                                    text, an object or the JSON text of one
{"error": "text"}                                                   Ollama, LM Studio
{"message", "path", "requestId", "statusCode", "timestamp"}         AI/ML API; `statusCode` may be a string
{"detail": [{"loc", "msg", "type"}]} · {"detail": "text"}           FastAPI; Mistral and vLLM put it into `message`
{"title", "detail", "status"}                                       application/problem+json
{"errors": [{"code", "message"}], "success": false}                 Cloudflare
{"base_resp": {"status_code", "status_msg"}}                        MiniMax, within a 200
{"code", "msg", "success": false} · {"code", "message"}             Zhipu, DashScope and other gateways
{"type": "response.failed", "response": {"error": {…}}}             an event of the Responses API
[{"error": {…}}]                                                    Gemini
{"error", "error_type"}                                             Text Generation Inference
{"errors": {"field": ["text"]}} · {"status", "data": {"message"}}   gateways
{"Response": {"Error": {"Code", "Message"}}} · <Error>…</Error>     Tencent, Volcengine; Aliyun
data: {"error": …}                                                  an event in the place of a body
an HTML page · plain text                                           proxies and firewalls
"""

from __future__ import annotations

import html
import re
from typing import Any, NamedTuple

from api_schemas import jsontext
from api_schemas.text import storable

MAX_MESSAGE = 2_000
"""Characters of an error message kept: enough for a validator's hints, too little to carry a prompt around."""

MAX_FOREIGN = 300
"""Characters kept of a text in no known shape."""

_MOST_LINES = 20
_DEEPEST = 6
#: Where the message stands, the most specific field first.
_WORDS = (
    "message",
    "detail",
    "details",
    "title",
    "msg",
    "status_msg",
    "error_message",
    "error_msg",
    "error_description",
    "errorMessage",
    "Message",
    "faultstring",
    "reason",
    "error",
    "errors",
    "fault",
    "exception",
    "err",
    "innererror",
    "description",
    "statusMessage",
    "cause",
)
#: What holds an error object instead of words.
_WITHIN = ("error", "base_resp", "fault", "last_error", "status_details")
#: What gateways put an error into: read where nothing beside it speaks.
_AROUND = ("response", "data", "result", "output", "header", "responsemetadata", "body", "text")
#: What words, codes and states are called in an answer that may be an error, and the codes that are none.
_SPOKEN = ("message", "msg", "error_message", "error_msg", "errorMessage")
_STATUSES = ("statusCode", "status", "http_code", "http_status", "status_code")
_CODES = ("code", "error_code", "errorCode")
_FINE = frozenset({"", "0", "200", "ok", "success", "true", "false"})
_FAILED = frozenset({"error", "failed", "failure", "fail"})
#: MiniMax counts its own way: https://platform.minimax.io/docs/api-reference/errorcode
_MINIMAX = {
    1000: 500,
    1001: 504,
    1002: 429,
    1004: 401,
    1008: 402,
    1013: 500,
    1024: 500,
    1026: 400,
    1027: 400,
    1033: 500,
    1039: 400,
    1041: 429,
    1042: 400,
    2013: 400,
    2045: 429,
    2049: 401,
    2056: 429,
    2061: 403,
}
_SPACES = re.compile(r"\s+")
_TAGS = re.compile(r"(?s)<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[^>]*>")
_PAGE = re.compile(r"\s*<[a-zA-Z!?]")
_EVENT = re.compile(r"(?m)^data:\s*(\{.*\})\s*$")
_TITLE = re.compile(r"(?is)<title[^>]*>(.*?)</title>")
_HEADING = re.compile(r"(?is)<h[1-3][^>]*>(.*?)</h[1-3]>")


class UpstreamError(NamedTuple):
    """The content of an error; every part may be missing. All text is storable."""

    message: str = ""
    code: str | None = None
    type: str | None = None
    status: int | None = None
    param: str | None = None
    request_id: str | None = None
    passed_on: bool = False  # the words are those of a provider behind the gateway that was called


def read_error(data: Any) -> UpstreamError:
    """Read an error (bytes of a body, text, or parsed JSON) of any shape; never raises."""
    if isinstance(data, bytes):
        try:
            data = jsontext.loads(data)
        except ValueError:
            data = data.decode("utf-8", "replace")
    if isinstance(data, str):
        data = _inside(data)
    if isinstance(data, list):
        data = next((entry for entry in data if isinstance(entry, dict)), None) or (data[0] if data else None)
    if isinstance(data, str):
        return UpstreamError(_foreign(data))
    return _object(data, 0) if isinstance(data, dict) else UpstreamError()


def speaks(error: Any) -> bool:
    """Whether the value of an `error` field reports one: `{}`, `{"code": 0}` and the like stand for none."""
    if isinstance(error, dict):
        return any(value not in (None, "", 0, "0", False, [], {}) for value in error.values())
    return bool(error) and str(error).strip().lower() not in ("null", "none")


def is_error(value: Any) -> bool:
    """Whether parsed JSON is an error of one of the known shapes rather than an answer or a piece of one."""
    if isinstance(value, list):
        return bool(value) and is_error(value[0])
    if not isinstance(value, dict):
        return False
    if speaks(value.get("error")):
        return True
    if isinstance(base := value.get("base_resp"), dict) and base.get("status_code"):
        return True
    if value.get("choices") is not None or value.get("output") is not None or value.get("response") is not None:
        return False
    return (
        "statusCode" in value
        or value.get("object") == "error"
        or value.get("type") == "error"
        or value.get("success") is False
        or ("detail" in value and bool(value["detail"]))
        or bool(value.get("errors"))
        or _names_failure(value)
    )


def _names_failure(value: dict[str, Any]) -> bool:
    """Whether an object has words and, beside them, a code or a status of a failure, as gateways answer within a 200."""
    if "delta" in value or not any(isinstance(value.get(name), str) and value[name] for name in _SPOKEN):
        return False
    code = next((value[name] for name in _CODES if value.get(name) is not None), None)
    status = value.get("status")
    failed = isinstance(status, str) and status.strip().lower() in _FAILED
    return failed or _status(status) is not None or (code is not None and str(code).strip().lower() not in _FINE)


def _inside(text: str) -> Any:
    """The object that a text is the JSON of, as it is or as an event; else the text."""
    found = _EVENT.search(text) if text.lstrip().startswith(("data:", "event:")) else None
    bare = found[1] if found else text.strip()
    if bare.startswith("{") and bare.endswith("}"):
        try:
            return jsontext.loads(bare)
        except ValueError:
            return text
    return text


def _object(data: dict[str, Any], depth: int) -> UpstreamError:
    """Read an error object; inner fields win over outer ones."""
    data = {**{key.lower(): value for key, value in data.items() if key[:1].isupper()}, **data}
    outer = _flat(data)
    raw = metadata.get("raw") if isinstance(metadata := data.get("metadata"), dict) else None
    if raw and depth < _DEEPEST:
        behind = (
            _object(raw, depth + 1) if isinstance(raw := _inside(raw) if isinstance(raw, str) else raw, dict) else None
        )
        outer = outer._replace(passed_on=True)
        if behind is not None:
            outer = outer._replace(code=outer.code or behind.code, type=outer.type or behind.type)
    inner = next((data[name] for name in _WITHIN if isinstance(data.get(name), dict) and speaks(data[name])), None)
    if inner is None and isinstance(response := data.get("response"), dict):
        inner = response
    if inner is None and isinstance(errors := data.get("errors"), list) and errors and isinstance(errors[0], dict):
        inner = errors[0]
    if inner is None and not outer.message:
        around = (_inside(data[name]) if isinstance(data.get(name), str) else data.get(name) for name in _AROUND)
        inner = next((one for one in around if isinstance(one, dict)), None)
    if not isinstance(inner, dict) or depth >= _DEEPEST:
        return outer
    words = _object(inner, depth + 1)
    return UpstreamError(
        words.message or outer.message,
        words.code or outer.code,
        words.type or outer.type,
        words.status or outer.status,
        words.param or outer.param,
        words.request_id or outer.request_id,
        words.passed_on or outer.passed_on,
    )


def _flat(data: dict[str, Any]) -> UpstreamError:
    code = data.get("code", data.get("status_code", data.get("error_code")))
    status = next((found for name in _STATUSES if (found := _status(data.get(name)))), None) or _status(code)
    if status is None and "status_msg" in data and isinstance(code, int):
        status = _MINIMAX.get(code)
    kind = data.get("type") or data.get("error_type")
    if kind is None and isinstance(data.get("status"), str) and data["status"].isupper():  # Gemini's
        kind = data["status"]
    return UpstreamError(
        message=_message(data, 0),
        code=None if _status(code) or code == 0 else _name(code),
        type=None if kind == "about:blank" else _name(kind),
        status=status,
        param=_name(data.get("param")),
        request_id=_name(data.get("requestId")) or _name(data.get("request_id")),
    )


def _message(data: dict[str, Any], depth: int) -> str:
    """The words of an object, with those of OpenRouter's `metadata.raw` behind them."""
    words = next((found for name in _WORDS if (found := _words(data.get(name), depth))), "")
    metadata = data.get("metadata")
    raw = _words(metadata.get("raw"), depth) if isinstance(metadata, dict) else ""
    return _short(f"{words}: {raw}" if words and raw and raw not in words else words or raw)


def _words(value: Any, depth: int) -> str:
    """The words of a field: a text, an object with a text in it, or a list of such, each with the place it speaks of."""
    if isinstance(value, str):
        held = _inside(value) if depth < _DEEPEST else value
        return (_words(held, depth + 1) if isinstance(held, dict) else "") or _short(value)
    if depth >= _DEEPEST:
        return ""
    if isinstance(value, list):
        return "; ".join(filter(None, (_words(line, depth + 1) for line in value[:_MOST_LINES])))
    if not isinstance(value, dict):
        return ""
    words = _message(value, depth + 1) or _of_fields(value, depth + 1)
    place = value.get("loc")
    if words and isinstance(place, list) and place:
        return f"{'.'.join(str(step) for step in place[:10])}: {words}"
    return words


def _of_fields(value: dict[str, Any], depth: int) -> str:
    """The words of an object that has them by the name of the field they are about, or within another object."""
    around = next((words for name in _AROUND if (words := _words(value.get(name), depth))), "")
    lists = {name: words for name, held in value.items() if isinstance(held, list) and (words := _words(held, depth))}
    return around or _short("; ".join(f"{name}: {words}" for name, words in list(lists.items())[:_MOST_LINES]))


def _name(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 64:
        value = str(value)
    return storable(value.strip()[:100]) if isinstance(value, str) and value.strip() else None


def _status(value: Any) -> int | None:
    if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599 else None


def _foreign(text: str) -> str:
    """The words of a text in no known shape; of an HTML page its title and first heading, or else its visible text."""
    text = text[: 64 * 1024]
    if not _PAGE.match(text):
        return _short(text)[:MAX_FOREIGN]
    parts = [found[1] for pattern in (_TITLE, _HEADING) if (found := pattern.search(text))]
    heads = [_visible(part) for part in parts]
    words = ": ".join(dict.fromkeys(filter(None, heads))) or _visible(text)
    return words[:MAX_FOREIGN]


def _visible(page: str) -> str:
    return _short(html.unescape(_TAGS.sub(" ", page)))


def _short(text: str) -> str:
    return storable(_SPACES.sub(" ", text[: MAX_MESSAGE * 2]).strip()[:MAX_MESSAGE])
