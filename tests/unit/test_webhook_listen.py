"""What `stockpot webhooks listen` prints for people."""

from __future__ import annotations

import pytest

from worker.webhooks.listen import Received, pretty


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            {"type": "job.completed", "data": {"id": "job_1", "usage": {"total_tokens": 54}, "cost_usd": 0.000034}},
            "✓ evt_1  job.completed  job_1  54 tokens  $0.000034",
        ),
        ({"type": "job.completed", "data": {"id": "job_1", "cost_usd": 12}}, "✓ evt_1  job.completed  job_1  $12"),
        (
            {"type": "job.failed", "data": {"id": "job_1", "error": {"class": "upstream", "message": "HTTP 500"}}},
            "✓ evt_1  job.failed  job_1  upstream: HTTP 500",
        ),
        (
            {"type": "endpoint.disabled", "data": {"id": "we_1", "reason": "gone"}},
            "✓ evt_1  endpoint.disabled  we_1  gone",
        ),
        ({"type": "job.completed", "data": "nonsense"}, "✓ evt_1  job.completed  "),
    ],
)
def test_a_verified_event_is_one_line(event: dict[str, object], line: str) -> None:
    """With money as people write it, and the reason where there is one."""
    assert pretty(Received("evt_1", event, None)) == line


def test_what_is_not_verified_says_why() -> None:
    """Also when it has no id."""
    assert pretty(Received("evt_1", None, "the webhook is 400 s old")) == "✗ evt_1: the webhook is 400 s old"
    assert pretty(Received("", None, "a header is missing")) == "✗ no id: a header is missing"
