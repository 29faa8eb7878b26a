"""HTTP for other programs: OpenAI's wire over the producer. `worker.gateway:app` is the ASGI application.

A router module has its routes in `ROUTES`, made by `routing.route`; `app` puts them at `/v1` and without it.

answers          Answers: JSON, OpenAI's lists, and the headers that name the job
app              The application: routes, the dashboard, middleware, what lives as long as it does
auth             Authentication: a key, or none on loopback while there are no keys
batches          `/batches`: OpenAI's batch calls, and quote, pause, resume, retry-failed beside them
bodies           Request bodies, bounded: JSON objects within the limits of a request
chat             `POST /chat/completions`: whole and streamed
chat_stored      Stored chat completions: list, get, metadata, delete, messages
chat_wire        Chat completions on the wire: the whole object, and the chunks of a stream
connections      Connections with bounds: the time of a request's head
conversation     What goes upstream for a response: the request, with the conversation before it written out
download         A file's bytes to one client
errors           The error body, and which status each error of the product has
event_stream     Server-sent events to one client: bounded, kept alive, ended so that they can be resumed
events           `/jobs/{id}/events`: live events, with a key or by a signed URL
fields           The fields of a JSON body, with OpenAI's codes for what is wrong with them
file_wire        Files as OpenAI's wire has them, and the parameters that ask for a page or a range
files            `/files`: list, get, delete, content
first            The beginning of a stream: what goes wrong before its first event gets a status of its own
fleet            `/usage` and `/routes`
health           `/livez`, `/readyz`, `/metrics`
jobs             `/jobs`: submit, list, get, cancel, retry
joining          How a call becomes a job, or joins the one that it repeats
local            Whether a request comes from this machine: who is served where there are no keys
middleware       What happens around every request: its id, its log line, headers, the last resort
known_fields     Types and ranges of the fields that OpenAI knows, checked before a call is accepted
models           `/models`: the upstream's models with their prices
multipart        A multipart upload, read as it comes
openapi          `/openapi.json`
openapi_words    What `/openapi.json` has of each operation beside its path
pages            What browsers need: `/stockpot.js` and CORS
queries          Query parameters of lists and flags
rates            The rate headers of a key that has limits
response_object  The Response object, every field of it filled
response_wire    The events of a Responses stream, numbered, the same for every reader
responses        `/responses`: create, read, follow, cancel, delete, list what went in
routing          Routes of handlers that know who calls
serving          uvicorn with bounds: sockets, connections, a graceful stop
state            What all requests of a process share: settings, keys, models and producers
uploads          `POST /files`
waiting          Waiting for a job's end on behalf of a client
webhooks         `/webhooks`: endpoints, secrets, events
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Build the application when a server asks for it: importing a module of the gateway costs nothing."""
    if name == "app":
        from worker.gateway import app as module

        return module.default()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
