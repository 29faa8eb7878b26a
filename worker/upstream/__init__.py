"""One HTTP call to an OpenAI-compatible provider, and what it came to.

Only `client.py`, `exchange.py` and `connections.py` touch a socket or a clock; the others are pure.

    accumulate            Events of a stream in, the finished response object out
    accumulate_chat       Chat completion chunks in, one `chat.completion` object out
    accumulate_responses  Events of the Responses API in, one `response` object out
    answer                Reading a 2xx answer for what it is: events or one object, independent of its labels
    blame                 What a refusal blames: the request, the account behind the key, or nothing
    call                  What one upstream call asks for, and what can be seen of it while it runs
    chat_choice           One choice of a streamed chat completion: its message so far and its other fields
    chunk_template        The shape of a stream's ordinary chunk, so that the next one of the same shape need not be
    classify              From a status, headers and an error object to the decision they call for (a `Failure`); pure
    client                The upstream client: one call, one HTTP request, one outcome
    connections           The aiohttp session that carries httpx, and the truth about what happened on the wire
    cost                  The cost of a call as the provider states it; in decimals, never in floats
    decoding              A body made plain: compression that was not asked for is undone, within bounds
    endpoints             How the answers of each endpoint are read
    ends                  When what came is an answer: one rule for every endpoint, for streams and for objects
    error_words           The status that the words of an error stand for, where it has none
    exchange              One request and its answer: what is sent, how the answer is read, and the timers that bound it
    finish_reasons        What a finish reason means: most end an answer, some mean that it broke
    heads                 Heads of answers that aiohttp's parser refuses and others read, put right before it sees them
    merge                 How the pieces of a streamed object add up; the rules that no field has for itself
    outcome               What one upstream call came to
    received              JSON as providers and gateways send it, made safe to keep and taken out of what stands around it
    redact                What must not be kept of an upstream's words: the key, and bearer tokens
    response_items        The output items of a streamed response, put together from their own events
    response_object       A `response` object as providers send it: put into the shape that its readers know
    retry_after           How long the upstream asks us to wait; a hint from a stranger, so it is bounded
    room                  Room for answers: what all answers of a worker may take in memory together
    sse                   Server-sent events: bytes in, events out; no I/O and no clock
    stream                Reading an answer that came as events: bytes in, an outcome at the end
    tap                   An answer's body taken where it arrives: in the transport's own callback
    tool_calls            Fragments of tool calls in, whole tool calls out
    transport             httpx over one aiohttp session: the only module that imports httpx
    whole_body            An answer that came in one piece: whether it is one, and its content
"""
