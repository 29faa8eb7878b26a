"""Traces through a real worker: submission, doorbell, attempts, calls, settlements and webhooks, linked over the queue."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.factories import row
from tests.fakes import Provider, workplace
from tests.rig.gateway import Gateway
from tests.rig.hookd import HookReceiver
from tests.rig.waiting import eventually
from worker import Stockpot
from worker.base import metrics, tracing
from worker.base.settings import Settings
from worker.db.connect import Database
from worker.db.ready import ensure_schema


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What is traced, as it ends; the provider is the application's."""
    exporter = InMemorySpanExporter()
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    processor = SimpleSpanProcessor(exporter)
    provider: Any = trace.get_tracer_provider()
    provider.add_span_processor(processor)
    monkeypatch.setattr(tracing, "_api", None)
    yield exporter
    processor.shutdown()


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    """The finished spans of this name, oldest first."""
    found = [one for one in spans.get_finished_spans() if one.name == name]
    return sorted(found, key=lambda one: one.start_time or 0)


def is_child(child: ReadableSpan, parent: ReadableSpan) -> bool:
    return child.parent is not None and child.parent.span_id == parent.context.span_id


def links(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def test_a_job_is_traced_from_its_submission_to_its_webhook(
    provider: Provider, database: Database, redis_url: str, hooks: HookReceiver, spans: InMemorySpanExporter
) -> None:
    """A retry is one more attempt, a trace of its own; both link to the submission, which survives the queue in the row."""
    given = {
        "traces": True,
        "webhook_retry_scale": 0.001,
        "webhook_secret": hooks.secrets[0],
        "webhook_allow_private": "127.0.0.0/8",
    }
    prompt = "a prompt that no span has"
    with workplace(provider, database.settings.database_url, redis_url, **given) as place:
        place.start()
        with Stockpot(settings=place.settings) as pot, trace.get_tracer("app").start_as_current_span("app"):
            body = {"model": "m@sim:503,ok", "messages": [{"role": "user", "content": prompt}], "stream": True}
            job = pot.submit(body, webhook=hooks.url("/flaky"))
            assert pot.wait(job.id, timeout=60).status == "completed"
            eventually(lambda: len(named(spans, "stockpot.webhook")) == 2, what="the webhook was tried twice")
            eventually(lambda: named(spans, "stockpot.ring"), what="the doorbell rang")
    [submit], [app], [ring] = (named(spans, name) for name in ("stockpot.submit", "app", "stockpot.ring"))
    assert is_child(submit, app)
    assert is_child(ring, submit)
    context = submit.context
    assert row(database, job.id)["traceparent"].startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")
    attempts, calls, settles = (
        named(spans, name) for name in ("stockpot.attempt", "chat m@sim:503,ok", "stockpot.settle")
    )
    assert [len(found) for found in (attempts, calls, settles)] == [2, 2, 2]
    for attempt, call, settle in zip(attempts, calls, settles, strict=True):
        assert attempt.parent is None
        assert links(attempt) == [context.span_id]
        assert is_child(call, attempt)
        assert is_child(settle, attempt)
    assert len({one.context.trace_id for one in (*attempts, submit)}) == 3
    facts = [dict(one.attributes or {}) for one in (*attempts, *calls)]
    assert [one["stockpot.attempt"] for one in facts[:2]] == [1, 2]
    assert [one["stockpot.outcome"] for one in facts[:2]] == ["retryable", "completed"]
    failed, fine = facts[2:]
    assert failed["error.type"]
    assert (fine["gen_ai.operation.name"], fine["gen_ai.request.model"]) == ("chat", "m@sim:503,ok")
    assert fine["gen_ai.usage.output_tokens"] == 6
    assert fine["gen_ai.response.finish_reasons"] == ("stop",)
    sent = named(spans, "stockpot.webhook")
    assert [links(one) for one in sent] == [[context.span_id]] * 2
    assert [dict(one.attributes or {})["http.response.status_code"] for one in sent] == [500, 200]
    assert prompt not in " ".join(one.to_json() for one in spans.get_finished_spans())


def test_a_request_to_the_gateway_goes_on_with_its_callers_trace(
    provider: Provider, sqlite_url: str, redis_url: str, spans: InMemorySpanExporter
) -> None:
    """And one whose header is none begins its own."""
    with workplace(provider, sqlite_url, redis_url, traces=True) as place:
        ensure_schema(place.settings)
        place.start()
        with Gateway(place.settings) as gateway, gateway.http() as http:
            body = {"model": "m@sim:ok", "messages": [{"role": "user", "content": "hi"}]}
            for header in (f"00-{7:032x}-{9:016x}-01", "00-nonsense-x-01", "ü" * 200):
                done = http.post("/v1/chat/completions", json=body, headers={b"traceparent": header.encode()})
                assert done.status_code == 200
    requests = named(spans, "POST /chat/completions")
    assert requests, sorted({one.name for one in spans.get_finished_spans()})
    assert [one.context.trace_id == 7 for one in requests] == [True, False, False]
    for request, submit in zip(requests, named(spans, "stockpot.submit"), strict=True):
        assert is_child(submit, request)


def test_without_the_setting_nothing_is_imported_and_nothing_kept(
    database: Database, spans: InMemorySpanExporter
) -> None:
    """Neither in a worker nor in a producer. (redis-py imports OpenTelemetry's API for itself, where they are installed.)"""
    with Stockpot(settings=database.settings) as pot:
        job = pot.submit({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    assert row(database, job.id)["traceparent"] is None
    assert not spans.get_finished_spans()
    program = (
        "import sys; import worker.engine.engine, worker.producer.stockpot, worker.gateway.app, worker.webhooks.deliver;"
        " print([name for name in sys.modules if name.startswith(('opentelemetry.sdk.trace', 'opentelemetry.exporter'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_genai_metrics_have_the_fields_names_and_few_series(
    provider: Provider, sqlite_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new names always, the older ones where they are asked for; the hundred-and-first model is `other`."""

    def value(name: str, **more: str) -> float:
        labels = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "127.0.0.1", "gen_ai_request_model": "other"}
        return metrics.REGISTRY.get_sample_value(name, labels | more) or 0.0

    monkeypatch.setattr(metrics, "_models", {f"m{number}" for number in range(metrics.MOST_MODELS)})
    old = "gen_ai_client_operation_duration_seconds_count"
    for genai_metrics, times in (("new", 0), ("both", 1)):
        with workplace(provider, sqlite_url, redis_url, genai_metrics=genai_metrics) as place:
            ensure_schema(place.settings)
            place.start()
            before = value("gen_ai_client_inference_duration_seconds_count", error_type=""), value(old, error_type="")
            tokens = value("gen_ai_client_inference_usage_output_tokens_total")
            place.ended(place.submit("ok", stream=True))
        assert value("gen_ai_client_inference_duration_seconds_count", error_type="") == before[0] + 1
        assert value(old, error_type="") == before[1] + times
        assert value("gen_ai_client_inference_usage_output_tokens_total") == tokens + 6
    assert value("gen_ai_client_inference_time_to_first_chunk_seconds_count") >= 2
    assert value("gen_ai_client_operation_time_to_first_chunk_seconds_count") == 1
    assert value("gen_ai_client_token_usage_sum", gen_ai_token_type="output") == 6
    assert Settings().genai_metrics == "new"
