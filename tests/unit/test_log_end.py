"""One log line for a job that is over: which jobs, and what may not stand in it."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.factories import claimed_job
from worker.db.jobs.settle import Settlement
from worker.job.announce import log_end


def ended(status: str) -> Settlement:
    """How a job ended; a failure quotes the prompt, as providers do."""
    job = claimed_job()
    failed: dict[str, Any] = {"error_class": "invalid_request", "error_message": "bad prompt: my secret"}
    return Settlement(
        job_id=job.id,
        fence=job.fence,
        attempt=job.attempt,
        status=status,
        outcome="answer",
        spent=True,
        **({} if status == "completed" else failed),
    )


@pytest.mark.parametrize(
    ("which", "status", "event"),
    [
        ("failed", "failed", "job_failed"),
        ("failed", "expired", "job_failed"),
        ("failed", "completed", None),
        ("failed", "cancelled", None),
        ("all", "completed", "job_finished"),
        ("all", "cancelled", "job_finished"),
        ("all", "failed", "job_failed"),
        ("none", "failed", None),
    ],
)
def test_which_jobs_leave_a_line(which: str, status: str, event: str | None) -> None:
    """By `STOCKPOT_LOG_JOBS`; the level is a warning where something is to be looked at."""
    with capture_logs() as lines:
        log_end(claimed_job(), ended(status), which)
    assert [line["event"] for line in lines] == ([] if event is None else [event])
    assert all((line["log_level"] == "warning") == (event == "job_failed") for line in lines)


def test_a_line_has_ids_and_classes_and_no_words_of_the_provider() -> None:
    """The prompt may be quoted in them."""
    with capture_logs() as [*lines]:
        log_end(claimed_job(), ended("failed"), "failed")
    assert "secret" not in str(lines)
