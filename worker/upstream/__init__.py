"""One HTTP call to an OpenAI-compatible provider, and what it came to.

    call.py                 what is asked: `Call`; what can be seen meanwhile: `Progress`
    client.py               the call itself, the only module that imports httpx
    connections.py          the aiohttp session below it, and the truth about what was sent
    sse.py                  bytes in, events out
    accumulate*.py, merge.py   events in, the finished response object out
    received.py             JSON as providers send it, made safe to keep
    whole_body.py           an answer that came in one piece
    error_words.py, classify.py   what a failure says, and the decision it calls for
    cost.py                 what the provider says that the call cost
    outcome.py              the result: `Answer | Failure`

Only `client.py` and `connections.py` touch a socket or a clock; the others are pure.
"""
