"""What an answer consists of, however it came: tool calls, usage, choices, content parts, and streamed responses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.answer_factories import BODY, COUNTED, USAGE, answer, chunk, failed, sse
from worker.upstream.answer import AnswerReading
from worker.upstream.call import CHAT, RESPONSES, Call, Progress
from worker.upstream.heads import cut_to_end, mended
from worker.upstream.outcome import Answer, Kind


def calls_of(*deltas: Any, message: Any = None) -> list[tuple[str, str]]:
    events = [{"choices": [{"index": 0, "delta": {"tool_calls": delta}}]} for delta in deltas]
    last = chunk(finish="tool_calls")
    if message is not None:
        last["choices"][0]["message"] = message
    response = json.loads(answer(sse(*events, last)).body)
    calls = response["choices"][0]["message"].get("tool_calls", [])
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


def fn(name: str | None = None, text: str = "", **more: Any) -> dict[str, Any]:
    named = {} if name is None else {"name": name}
    return {**more, "function": {**named, "arguments": text}}


def test_a_name_that_is_repeated_is_one_name() -> None:
    """With its id, and without."""
    for given in ({"id": "a"}, {}):
        steps = [[fn("read", text, index=0, **given)] for text in ("", '{"p":', "1}")]
        assert calls_of(*steps) == [("read", '{"p":1}')]


def test_a_name_in_pieces_is_joined_and_a_growing_one_replaced() -> None:
    """Before its arguments."""
    assert calls_of([fn("read_", index=0, id="a")], [fn("file", index=0)], [fn(None, "{}", index=0)]) == [
        ("read_file", "{}")
    ]
    assert calls_of([fn("rea", index=0, id="a")], [fn("read", "{}", index=0)]) == [("read", "{}")]


def test_calls_without_ids_are_told_apart_by_a_name_after_whole_arguments() -> None:
    """All of them have the index 0; their arguments may come in pieces."""
    whole = [[fn("get", f'{{"n":{n}}}', index=0)] for n in range(4)]
    assert calls_of(*whole) == [("get", f'{{"n":{n}}}') for n in range(4)]
    pieces = [
        [fn("get", "", index=0)],
        [fn(None, '{"n":', index=0)],
        [fn(None, "1}", index=0)],
        [fn("get", "{}", index=0)],
    ]
    assert calls_of(*pieces) == [("get", '{"n":1}'), ("get", "{}")]


def test_interleaved_fragments_are_joined_by_their_ids() -> None:
    """Without an index, or with the same one."""
    for where in ({}, {"index": 0}):
        steps = [
            [fn("a", '{"x":', id="1", **where)],
            [fn("b", '{"y":', id="2", **where)],
            [fn(None, "1}", id="1", **where)],
            [fn(None, "2}", id="2", **where)],
        ]
        assert calls_of(*steps) == [("a", '{"x":1}'), ("b", '{"y":2}')]


def test_an_id_made_up_for_each_fragment_begins_no_call() -> None:
    """The index tells, where no name comes along."""
    assert calls_of([fn("a", "{", index=0, id="1")], [fn(None, "}", index=0, id="2")]) == [("a", "{}")]


def test_one_object_stands_for_a_list_and_arguments_may_be_an_object() -> None:
    """As some servers write them."""
    assert calls_of(fn("a", "{}", index=0, id="1")) == [("a", "{}")]
    assert calls_of({"id": "1", "function": {"name": "a", "arguments": {"x": 1}}}) == [("a", '{"x":1}')]


def test_tool_calls_of_an_answer_in_one_piece_are_put_right_too() -> None:
    """As far as no SDK could read them; else the body stays what it was."""
    message = {"role": "assistant", "content": None, "tool_calls": fn("a", "", id="1")}
    message["tool_calls"]["function"]["arguments"] = {"x": 1}  # type: ignore[index]
    body = {**BODY, "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    whole = answer(json.dumps(body).encode(), stream=False, events=False)
    (call,) = json.loads(whole.body)["choices"][0]["message"]["tool_calls"]
    assert (call["function"]["name"], call["function"]["arguments"]) == ("a", '{"x":1}')
    raw = json.dumps(BODY, indent=1).encode()
    assert answer(raw, stream=False, events=False).body == raw


def test_a_final_message_fills_in_what_the_deltas_left_out() -> None:
    """And repeats nothing of what they said."""
    message = {"role": "assistant", "content": "hi", "tool_calls": [fn("a", "{}", id="1")]}
    assert calls_of(message=message) == [("a", "{}")]
    assert calls_of([fn("b", "[]", index=0, id="2")], message=message) == [("b", "[]")]
    said = chunk("hi")
    last = chunk(finish="stop")
    last["choices"][0]["message"] = message
    assert answer(sse(said, last)).text == "hi"
    assert answer(sse(last)).text == "hi"


def test_messages_in_place_of_deltas_add_up() -> None:
    """Each with the text so far, or each with a piece."""
    for texts in (["he", "hello"], ["he", "llo"]):
        events = [{"choices": [{"index": 0, "message": {"content": text}}]} for text in texts]
        assert answer(sse(*events, chunk(finish="stop"))).text == "hello"


# --- usage, choices, parts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "events",
    [
        [chunk("a"), {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": USAGE}]}],
        [chunk("a"), chunk(finish="stop", usage=USAGE), {"choices": [], "usage": dict.fromkeys(USAGE, 0)}],
        [
            chunk("a", usage={**USAGE, "completion_tokens": 0, "total_tokens": 7}),
            chunk(finish="stop", usage={"prompt_tokens": 0, "completion_tokens": 3, "total_tokens": 3}),
        ],
        [chunk("a"), chunk(finish="stop"), {"choices": [], "x_groq": {"usage": USAGE}}],
        [chunk("a"), chunk(finish="stop"), {"usage": {key: str(count) for key, count in USAGE.items()}}],
    ],
    ids=["in-choice", "zeros-last", "split", "groq", "strings"],
)
def test_usage_is_found_wherever_it_stands(events: list[Any]) -> None:
    """Field by field, and zeros replace nothing."""
    assert answer(sse(*events, b"[DONE]")).usage == COUNTED


@pytest.mark.parametrize("numbers", [[1, 1, 1], [0, 1, 2], [5, 5, 5]])
def test_who_asked_for_one_choice_gets_one(numbers: list[int]) -> None:
    """An index that counts chunks is no choice."""
    events = [chunk("a"), chunk("b"), chunk(finish="stop")]
    for event, number in zip(events, numbers, strict=True):
        event["choices"][0]["index"] = number
    whole = answer(sse(*events))
    assert (whole.text, whole.finish_reason) == ("ab", "stop")
    assert len(json.loads(whole.body)["choices"]) == 1


def test_content_parts_grow_instead_of_standing_one_per_delta() -> None:
    """Text, and a model's thinking."""
    parts = [[{"type": "thinking", "thinking": [{"type": "text", "text": t}]}] for t in "hm"]
    parts += [[{"type": "text", "text": t}] for t in "ab"]
    events = [{"choices": [{"index": 0, "delta": {"content": part}}]} for part in parts]
    message = json.loads(answer(sse(*events, chunk("c"), chunk(finish="stop"))).body)["choices"][0]["message"]
    assert message["content"] == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "abc"},
    ]


def test_audio_in_many_pieces_is_joined_once() -> None:
    """Joining at each piece is quadratic: this would take minutes."""
    event = {"choices": [{"index": 0, "delta": {"audio": {"id": "a", "data": "x" * 400, "transcript": "t"}}}]}
    data = sse(*[event] * 20_000, chunk(finish="stop"))
    call = Call(CHAT, b"{}", True, "job.1", None, 10)
    reading = AnswerReading(call, Progress(), None, lambda: 0.0, 1 << 26)
    reading.take(data)
    outcome = reading.outcome()
    assert isinstance(outcome, Answer)
    audio = json.loads(outcome.body)["choices"][0]["message"]["audio"]
    assert (audio["id"], len(audio["data"]), len(audio["transcript"])) == ("a", 8_000_000, 20_000)


def test_an_event_may_be_as_large_as_the_answer() -> None:
    """Images come as data URLs; there is one bound."""
    text = "x" * 6_000_000
    call = Call(CHAT, b"{}", True, "job.1", None, 10)
    reading = AnswerReading(call, Progress(), None, lambda: 0.0, 8_000_000)
    reading.take(sse(chunk(text), chunk(finish="stop")))
    outcome = reading.outcome()
    assert isinstance(outcome, Answer)
    assert outcome.text == text


# --- errors in the place of answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (sse(b"error: CUDA out of memory"), Kind.RETRYABLE, "CUDA out of memory"),
        (
            sse(chunk("a")) + b'{"error":{"message":"Rate limit reached","code":"rate_limit_exceeded"}}\n\n',
            Kind.BUSY,
            "Rate",
        ),
        (sse(chunk("a")) + b'{\n  "error": {"message": "boom"}\n}\n', Kind.PARTIAL, "boom"),
        (b'{"error":{"message":"not in your plan","code":"model_not_found"}}', Kind.TERMINAL, "not in your plan"),
        (b'[{"error":{"code":400,"message":"bad","status":"INVALID_ARGUMENT"}}]', Kind.TERMINAL, "bad"),
        (
            b'{"id":"","choices":null,"base_resp":{"status_code":1004,"status_msg":"login fail"}}',
            Kind.ACCOUNT,
            "login fail",
        ),
        (b"<html><head><title>502 Bad Gateway</title></head></html>", Kind.RETRYABLE, "502 Bad Gateway"),
        (b'{"detail":"Not Found"}', Kind.RETRYABLE, "Not Found"),
    ],
)
def test_an_error_in_the_place_of_an_answer_keeps_its_words(data: bytes, kind: Kind, words: str) -> None:
    """In an event stream, behind it, or instead of it."""
    failure = failed(data)
    assert failure.kind is kind
    assert words in failure.message


# --- the Responses API -----------------------------------------------------------------------------------------------

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "status": "completed",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "to you", "annotations": []}],
}
ADDED = {"type": "response.output_item.added", "output_index": 0, "item": {**MESSAGE, "content": []}}
DELTAS = [
    {"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "delta": t} for t in ("to ", "you")
]
DONE = {"type": "response.output_item.done", "output_index": 0, "item": MESSAGE}
END = {"type": "response.completed", "response": {"id": "r", "status": "completed", "output": [], "usage": USAGE}}


@pytest.mark.parametrize(
    "events",
    [
        [ADDED, *DELTAS, END],
        [*DELTAS, END],
        [ADDED, *DELTAS, DONE, END],
        [ADDED, *DELTAS, DONE],
        [*DELTAS, {**END, "type": "response.done"}],
        [{**END["response"], "object": "response", "output": [MESSAGE]}],  # type: ignore[dict-item]
    ],
)
def test_a_streamed_response_has_its_output_whatever_its_end_leaves_out(events: list[Any]) -> None:
    """From its items, or from their deltas."""
    whole = answer(sse(*events), endpoint=RESPONSES)
    assert whole.text == "to you"
    item = json.loads(whole.body)["output"][0]
    assert (item["type"], item["role"], item["content"]) == ("message", "assistant", MESSAGE["content"])


def test_items_that_share_an_index_are_all_kept_in_order() -> None:
    """Their ids tell them apart."""
    call = {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    events = [DONE, {**DONE, "item": call}, END]
    assert json.loads(answer(sse(*events), endpoint=RESPONSES).body)["output"] == [MESSAGE, call]


def test_a_response_is_cut_while_an_item_is_open() -> None:
    """Its deltas alone are no answer."""
    assert failed(sse(ADDED, *DELTAS), endpoint=RESPONSES).error_class == "truncated"


def test_arguments_in_deltas_make_the_call_that_was_added() -> None:
    """Where the end leaves them out."""
    call = {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f", "arguments": ""}
    events = [{"type": "response.output_item.added", "output_index": 0, "item": call}]
    events += [{"type": "response.function_call_arguments.delta", "item_id": "fc_1", "delta": t} for t in ("{", "}")]
    (item,) = json.loads(answer(sse(*events, END), endpoint=RESPONSES).body)["output"]
    assert (item["name"], item["arguments"], item["call_id"]) == ("f", "{}", "c")


# --- heads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "wanted"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y", None),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\ncontent-length: 5",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\ncontent-length: 5", b"HTTP/1.1 200 OK\r\nContent-Length: 5"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6", None),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close",
        ),
        (b"HTTP/1.1 200 OK\r\nX: content-length\r\nY: content-length", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5", b"HTTP/1.1 200 OK\r\nContent-Length: 5"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: unknown\r\nX: y", b"HTTP/1.1 200 OK\r\nX: y\r\nConnection: close"),
        (b"HTTP/1.1 200 OK\r\nX \t: y", b"HTTP/1.1 200 OK\r\nX: y\r\nConnection: close"),
        (b"HTTP/1.1 200 OK\nX: y", b"HTTP/1.1 200 OK\r\nX: y\r\nConnection: close"),
        (b"HTTP/1.1 200 OK\r\nX: y\r\nthis is no header", None),
        (b"HTTP/1.1 200 OK\r\nX: y\r\n  continued", None),
    ],
)
def test_a_head_says_the_length_of_its_body_once(head: bytes, wanted: bytes | None) -> None:
    """Two that differ are for the parser to refuse."""
    assert mended(head) == (head if wanted is None else wanted)


@pytest.mark.parametrize(
    ("head", "body", "cut"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2", b"{}", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2", b"{", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y", b"{}\0junk", b"{}"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", b"2\r\n{}\r\n0\r\nA: b\r\n", None),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked", b"2;x\r\n{}\r\n0\r\n\r\njunk", b"2;x\r\n{}\r\n0\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", b"4\r\n0\r\n\r\n\r\nbad", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", b"zz\r\n", None),
    ],
)
def test_what_is_beyond_the_length_of_a_body_is_no_part_of_it(head: bytes, body: bytes, cut: bytes | None) -> None:
    """The parser would refuse the answer for it; its connection is not used again."""
    wanted = (head, body) if cut is None else (head + b"\r\nConnection: close", cut)
    assert cut_to_end(head, body) == wanted
