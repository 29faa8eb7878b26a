"""The event parser: any stream, cut in any way, gives the same events."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.upstream.sse import EventParser, EventTooLarge, ServerSentEvent


def parse(pieces: list[bytes]) -> list[ServerSentEvent]:
    parser = EventParser(1_000_000)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return events + parser.close()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


#: Text as models write it, with what naive line splitting breaks on: U+2028, U+0085, VT, emoji, BOM. No line begins an
#: object: two such lines are two events.
LINES = st.text(st.sampled_from('abc }":\\,\u2028\u2029\x85\x0b\x0cé😀\ufeff\0'), max_size=12).map(
    lambda text: text.encode()
)
EVENTS = st.lists(
    st.tuples(st.sampled_from([None, "response.created", "error"]), st.lists(LINES, min_size=1, max_size=3)), max_size=6
)
NOISE = st.sampled_from([b"", b": ping", b":", b"id: 7", b"retry: 10", b"unknown: x", b"unknown"])


@settings(max_examples=200, deadline=None)
@given(
    events=EVENTS,
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    space=st.booleans(),
    bom=st.booleans(),
    noise=st.lists(NOISE, max_size=6),
    places=st.lists(st.integers(0, 10_000), max_size=20),
    bytewise=st.booleans(),
)
def test_any_events_under_any_cutting_and_line_end_come_out_as_they_went_in(
    events: list[tuple[str | None, list[bytes]]],
    end: bytes,
    space: bool,
    bom: bool,
    noise: list[bytes],
    places: list[int],
    bytewise: bool,
) -> None:
    """The property that every provider's stream relies on."""
    colon = b": " if space else b":"
    stream = b"\xef\xbb\xbf" if bom else b""
    wanted = []
    for number, (name, lines) in enumerate(events):
        if number < len(noise):
            stream += noise[number] + end
        if name:
            stream += b"event" + colon + name.encode() + end
        # Without the optional space, data that begins with a space would lose it: the standard says so.
        safe = [line if space else line.lstrip(b" ") for line in lines]
        stream += b"".join(b"data" + colon + line + end for line in safe) + end
        wanted.append(ServerSentEvent(name, b"\n".join(safe)))
    pieces = [stream[i : i + 1] for i in range(len(stream))] if bytewise else cut(stream, places)
    assert parse(pieces) == wanted


def test_the_ordinary_chat_stream_gives_its_data_lines() -> None:
    """Several events in one packet, as under load."""
    assert parse([b'data: {"a":1}\n\ndata: {"b":2}\n\ndata: [DONE]\n\n']) == [
        (None, b'{"a":1}'),
        (None, b'{"b":2}'),
        (None, b"[DONE]"),
    ]


def test_an_event_without_its_blank_line_is_reported_at_the_end() -> None:
    """Some providers end the stream right behind the last chunk."""
    assert parse([b"data: 1\n\ndata: 2\n"]) == [(None, b"1"), (None, b"2")]
    assert parse([b"data: 1\n\ndata: 2"]) == [(None, b"1"), (None, b"2")]


def test_comments_and_lone_fields_are_no_events() -> None:
    """A keep-alive, an id and a retry hint say nothing."""
    assert parse([b": ping\n\n:\n\nid: 1\n\nretry: 5\n\nevent: x\n\ndata: 1\n\n"]) == [(None, b"1")]


def test_an_event_name_does_not_leak_into_the_next_event() -> None:
    """An event without data resets the name."""
    assert parse([b"event: a\n\ndata: 1\n\nevent: b\ndata: 2\n\ndata: 3\n\n"]) == [
        (None, b"1"),
        ("b", b"2"),
        (None, b"3"),
    ]


def test_an_empty_data_line_is_an_event_with_empty_data() -> None:
    """The standard dispatches it; who reads decides."""
    assert parse([b"data\n\ndata:\n\n"]) == [(None, b""), (None, b"")]


def test_a_carriage_return_at_a_packet_edge_is_one_line_end_with_the_line_feed_behind_it() -> None:
    """CRLF cut in two must not become two line ends."""
    assert parse([b"data: 1\r", b"\ndata: 2\r", b"\n\r", b"\n", b"data: 3\r\n\r\n"]) == [(None, b"1\n2"), (None, b"3")]


@pytest.mark.parametrize("chunk", [1_000, 10_000])
def test_a_line_above_its_limit_is_refused_before_it_is_held(chunk: int) -> None:
    """A stream without line ends must not fill the memory."""
    parser = EventParser(100_000)
    with pytest.raises(EventTooLarge):
        for _ in range(1 + 100_000 // chunk):
            parser.feed(b"x" * chunk)


def test_a_long_line_in_one_packet_is_refused() -> None:
    """The fast path has the same limit as the slow one."""
    with pytest.raises(EventTooLarge):
        EventParser(100).feed(b"data: " + b"x" * 200 + b"\n\n")


def test_an_event_of_many_lines_above_its_limit_is_refused() -> None:
    """No single line is long, and yet nothing ever ends."""
    parser = EventParser(10_000)
    with pytest.raises(EventTooLarge):
        for _ in range(200):
            parser.feed(b"data: " + b"x" * 90 + b"\n")


def test_events_of_one_line_may_follow_each_other_without_a_blank_line() -> None:
    """Some servers end their events with one line feed."""
    stream = b'data: {"a":1}\ndata: {"b":2}\nevent: x\ndata: {"c":3}\ndata: [DONE]\n'
    wanted = [(None, b'{"a":1}'), (None, b'{"b":2}'), ("x", b'{"c":3}'), (None, b"[DONE]")]
    assert parse([stream]) == wanted
    assert parse([stream[i : i + 1] for i in range(len(stream))]) == wanted


def test_an_object_over_several_data_lines_stays_one_event() -> None:
    """The standard joins them."""
    assert parse([b'data: {\ndata:  "a": {"b": 1}\ndata: }\n\n']) == [(None, b'{\n "a": {"b": 1}\n}')]


def test_a_name_behind_its_data_is_that_events_name() -> None:
    """The order of an event's fields means nothing."""
    assert parse([b'data: {"a":1}\nevent: error\n\ndata: {"b":2}\n\n']) == [("error", b'{"a":1}'), (None, b'{"b":2}')]


def test_lines_that_are_no_fields_are_events_of_their_own() -> None:
    """Raw JSON between or behind events, over one line or several, and a proxy's words."""
    assert parse([b'data: {"a":1}\n\n{"error":{"message":"x"}}\n\ndata: {"b":2}\n\n']) == [
        (None, b'{"a":1}'),
        (None, b'{"error":{"message":"x"}}'),
        (None, b'{"b":2}'),
    ]
    assert parse([b'data: {"a":1}\n\n{\n  "error": "x"\n}']) == [(None, b'{"a":1}'), (None, b'{\n  "error": "x"\n}')]
    assert parse([b'{"a":1}\n{"b":2}\ndata: [DONE]\n\n']) == [(None, b'{"a":1}'), (None, b'{"b":2}'), (None, b"[DONE]")]
    assert parse([b"Internal Server Error\n"]) == [(None, b"Internal Server Error")]
