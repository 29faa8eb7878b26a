"""OpenTelemetry traces, where `STOCKPOT_TRACES` is on: what a job goes through, from its submission to its webhook.

    METHOD /route      SERVER     a request to the gateway, a child of its caller's `traceparent`
    stockpot.submit    PRODUCER   jobs are inserted; each keeps this span's `traceparent` in its row
    stockpot.ring      PRODUCER   the doorbell is sent
    stockpot.attempt   CONSUMER   one claim of a job, a trace of its own, linked to the submission; a retry is one more
    chat MODEL         CLIENT     the call, with GenAI's attributes; a child of its attempt
    stockpot.settle    INTERNAL   result, ledger and consequences are written; a child of its attempt
    stockpot.webhook   CLIENT     one try to deliver a webhook, linked to the submission

A link and no parent over the queue: a job may wait for hours, run again, or be one of a million of a file. Nothing of a prompt or an
answer is in a span. Without the setting nothing of OpenTelemetry is imported, and each call here costs a look at a variable.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from worker.base.errors import SettingsError
from worker.base.settings import Settings

Kind = Literal["producer", "consumer", "client", "server", "internal"]
Value = str | int | float | bool | tuple[str, ...] | None

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")

_api: Any = None  # `opentelemetry.trace`, once tracing has begun
#: Whether this process traces.
on = False


def begin(settings: Settings, *, service: str | None = None) -> None:
    """Trace from now on in this process, if the setting asks for it.

    Args:
        service: a process of our own, by what it does: unless the process has a tracer provider, one is made that sends to
            `OTEL_EXPORTER_OTLP_ENDPOINT`. An application's process (None) has its own, or traces nothing.

    Raises:
        SettingsError: the packages of the extra `otel` are missing.
    """
    global _api, on
    if not settings.traces or (_api is not None and service is None):
        return
    try:
        from opentelemetry import trace
    except ModuleNotFoundError:
        raise SettingsError("STOCKPOT_TRACES: OpenTelemetry is missing; pip install 'stockpot[otel]'") from None
    if service is not None and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        trace.set_tracer_provider(_own_provider(service))
    _api, on = trace, True


def _own_provider(service: str) -> Any:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError:
        raise SettingsError("STOCKPOT_TRACES: OpenTelemetry's SDK is missing; pip install 'stockpot[otel]'") from None
    resource = Resource.create()  # with OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, which go before our name
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": service}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Span:
    """A span, or nothing."""

    __slots__ = ("_span",)

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def set(self, attributes: Mapping[str, Value]) -> None:
        """Add attributes to it; those that are None are left out."""
        if self._span is not None:
            self._span.set_attributes({name: value for name, value in attributes.items() if value is not None})

    def fail(self, error_type: str) -> None:
        """It did not come to what it was for. The error's words stay out: a provider may quote the prompt in them."""
        if self._span is not None:
            self._span.set_status(_api.Status(_api.StatusCode.ERROR))
            self._span.set_attribute("error.type", error_type)

    @property
    def traceparent(self) -> str | None:
        """Its W3C trace context, to be kept; None where there is none."""
        if self._span is None:
            return None
        context = self._span.get_span_context()
        if not context.is_valid:
            return None
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags) & 0xFF:02x}"

    def name(self, name: str) -> None:
        """Call it otherwise."""
        if self._span is not None:
            self._span.update_name(name)


_NONE = Span()
#: A block without a span.
NOTHING: contextlib.AbstractContextManager[Span] = contextlib.nullcontext(_NONE)


def span(
    name: str,
    kind: Kind,
    attributes: Mapping[str, Value] | None = None,
    *,
    parent: str | None = None,
    link: str | None = None,
    root: bool = False,
) -> contextlib.AbstractContextManager[Span]:
    """A span around a block, the current one within it.

    Args:
        parent: the `traceparent` of who called us.
        link: the `traceparent` of what caused it.
        root: it begins a trace of its own, whatever runs around it.
    """
    return NOTHING if _api is None else _span(name, kind, attributes or {}, parent, link, root)


@contextlib.contextmanager
def _span(
    name: str, kind: Kind, attributes: Mapping[str, Value], parent: str | None, link: str | None, root: bool
) -> Iterator[Span]:
    around = None
    if root:
        around = _api.set_span_in_context(_api.INVALID_SPAN)
    elif (remote := _context(parent)) is not None:
        around = _api.set_span_in_context(_api.NonRecordingSpan(remote))
    caused = _context(link)
    with _api.get_tracer("stockpot").start_as_current_span(
        name,
        context=around,
        kind=_api.SpanKind[kind.upper()],
        attributes={key: value for key, value in attributes.items() if value is not None},
        links=[] if caused is None else [_api.Link(caused)],
        record_exception=False,
        set_status_on_exception=False,
    ) as made:
        yield Span(made)


def current() -> Span:
    """The span around us."""
    return _NONE if _api is None else Span(_api.get_current_span())


def _context(traceparent: str | None) -> Any:
    """The context that a `traceparent` names; None where it is none: it may be any client's header."""
    found = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    context = _api.SpanContext(trace_id, span_id, is_remote=True, trace_flags=_api.TraceFlags(flags))
    return context if context.is_valid else None


def end() -> None:
    """Send what is left, at the end of a process of our own."""
    if _api is not None and hasattr(provider := _api.get_tracer_provider(), "force_flush"):
        provider.force_flush(2_000)
