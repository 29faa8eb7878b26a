"""How the answers of each endpoint are read. A further endpoint is a row here, and its functions in a file beside this."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from worker.upstream import whole_body
from worker.upstream.accumulate import Accumulator
from worker.upstream.accumulate_chat import ChatAccumulator
from worker.upstream.accumulate_responses import ResponsesAccumulator
from worker.upstream.call import CHAT, RESPONSES, Call, Progress
from worker.upstream.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How the answers of one endpoint are read.

    Args:
        accumulator: adds up the events of a stream; takes how many choices were asked for.
        done: whether a stream ends with `[DONE]`, and usage may follow the finish reason until then.
        read: the outcome of an answer in one piece: its JSON object, and the text of that.
        events: the same object as the events of a stream, each with its visible text, for readers of a stream.
    """

    accumulator: Callable[[int], Accumulator]
    done: bool
    read: Callable[[Call, Progress, dict[str, Any], bytes], Outcome]
    events: Callable[[dict[str, Any], str], Iterator[tuple[dict[str, Any], str]]]


ENDPOINTS: Mapping[str, Endpoint] = {
    CHAT: Endpoint(ChatAccumulator, True, whole_body.chat, whole_body.chat_events),
    RESPONSES: Endpoint(lambda _: ResponsesAccumulator(), False, whole_body.responses, whole_body.responses_events),
}
