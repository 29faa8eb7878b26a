"""One HTTP call to an OpenAI-compatible provider, and what it came to.

Only `client.py`, `connections.py` and `watch.py` touch a socket or a clock; the others are pure.

    accumulate            Events of a stream in, the finished response object out
    accumulate_chat       Chat completion chunks in, one `chat.completion` object out
    accumulate_responses  Events of the Responses API in, one `response` object out
    call                  What one upstream call asks for, and what can be seen of it while it runs
    chunk_template        The shape of a stream's ordinary chunk, so that the next one of the same shape need not be
    classify              From a status, headers and an error object to the decision they call for (a `Failure`); pure
    client                The upstream client: one call, one HTTP request, one outcome
    connections           The aiohttp session that carries httpx, and the truth about what happened on the wire
    cost                  What the provider says that a call cost; in decimals, never in floats
    error_words           What a provider's error object says, whichever of the shapes in use it has; and nothing
    merge                 How the pieces of a streamed object add up; the rules that no field has for itself
    outcome               What one upstream call came to
    received              JSON as providers send it, made safe to keep
    retry_after           How long the upstream asks us to wait; a hint from a stranger, so it is bounded
    sse                   Server-sent events: bytes in, events out; no I/O and no clock
    stream                Reading a streamed answer: bytes in, an outcome at the end
    tap                   An answer's body taken where it arrives: in the transport's own callback
    tool_calls            Fragments of tool calls in, whole tool calls out
    transport             httpx over one aiohttp session: the only module that imports httpx
    watch                 The timers of one call: total, and a window that starts again with every event
    whole_body            An answer that came in one piece: is it one, and what does it say?
"""
