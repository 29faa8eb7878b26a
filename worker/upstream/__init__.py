"""One HTTP call to an OpenAI-compatible provider, and what it came to.

    call.py                          what is asked: `Call`; what can be seen meanwhile: `Progress`
    client.py                        the call itself
    transport.py                     httpx over aiohttp, the only module that imports httpx
    connections.py                   the aiohttp session below it, and the truth about what was sent
    watch.py                         the timers of one call
    sse.py                           bytes in, events out
    stream.py                        a streamed answer: events in, an outcome at the end
    accumulate.py, accumulate_*.py   events added up to the response object; merge.py and tool_calls.py have the rules
    chunk_template.py                the ordinary chunk of a stream, recognised without parsing it
    whole_body.py                    an answer that came in one piece
    received.py                      JSON as providers send it, made safe to keep
    classify.py                      what a failure calls for; error_words.py and retry_after.py read what it says
    cost.py                          what the provider says that the call cost
    outcome.py                       the result: `Answer | Failure`

Only `client.py`, `connections.py` and `watch.py` touch a socket or a clock; the others are pure.
"""
