"""The public names, both faces, and options that are typed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import worker
from api_schemas.jobs import JobOptions, JobRequest
from worker import AsyncStockpot, InvalidRequest, Settings, Stockpot
from worker.producer.batch_options import BatchOptions, read_options

BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
OBJECTS = ("batches", "files", "webhooks", "budgets", "routes", "keys", "calls")


@pytest.fixture
def pot(tmp_path: Path) -> Stockpot:
    """A producer that connects to nothing."""
    return Stockpot(Settings(home=tmp_path))


def test_every_exported_name_is_there_and_says_what_it_is() -> None:
    """A literal or an alias has no docstring of its own."""
    assert len(worker.__all__) <= 25
    assert set(worker.__all__) < set(worker._HOMES)
    for name in worker._HOMES:
        value = getattr(worker, name)
        if inspect.isclass(value):
            assert value.__doc__, name


def verbs(of: object) -> dict[str, Callable[..., Any]]:
    """The public methods of an object."""
    return {name: value for name, value in inspect.getmembers(of, callable) if not name.startswith("_")}


@pytest.mark.parametrize("place", ["", *OBJECTS])
def test_both_faces_have_the_same_verbs_with_the_same_arguments(pot: Stockpot, place: str) -> None:
    """One is the other, awaitable."""
    awaiting = AsyncStockpot(pot.settings)
    blocking_verbs = verbs(getattr(pot, place) if place else pot)
    awaiting_verbs = verbs(getattr(awaiting, place) if place else awaiting)
    assert set(blocking_verbs) == set(awaiting_verbs)
    for name, verb in blocking_verbs.items():
        assert list(inspect.signature(verb).parameters) == list(inspect.signature(awaiting_verbs[name]).parameters), (
            name
        )
        assert verb.__doc__, name


def test_the_options_of_a_job_are_the_fields_of_a_request() -> None:
    """A new field is an option."""
    assert set(get_type_hints(JobOptions)) == set(JobRequest.model_fields) - {"body"}


def test_a_misspelt_option_is_a_type_error(pot: Stockpot) -> None:
    """As of any function, and it says what was meant; nothing was asked of a database."""
    calls: list[Callable[[], object]] = [
        lambda: pot.submit(BODY, idempotancy_key="k"),  # type: ignore[call-arg]
        lambda: pot.submit_many([BODY], webhok="https://example.com"),  # type: ignore[call-arg]
        lambda: pot.batches.submit(__file__, max_cost="5"),  # type: ignore[call-arg]
        lambda: pot.webhooks.events(stat="dead"),  # type: ignore[call-arg]
    ]
    for call in calls:
        with pytest.raises(TypeError, match="unexpected option '.*'. Did you mean '"):
            call()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("finish_by", datetime.now(UTC) - timedelta(hours=1)),
        ("not_before", datetime(2030, 1, 1)),  # noqa: DTZ001 -- that is what is refused
        ("daily_window", "22:00"),
        ("daily_window", "22:00-22:00"),
        ("window_seconds", 0),
        ("max_cost_usd", "much"),
        ("max_cost_usd", 0),
        ("max_attempts", 0),
        ("max_in_flight", 0),
        ("webhook", "ftp://example.com"),
        ("metadata", {"a": 1}),
    ],
)
def test_a_wrong_option_of_a_batch_is_refused_by_name(option: str, value: object) -> None:
    """As those of a job."""
    given: Any = {option: value}
    with pytest.raises(InvalidRequest) as refused:
        read_options("default", given)
    assert [problem.field for problem in refused.value.problems] == [option]


def test_a_batch_takes_the_options_that_it_names() -> None:
    """Each has its place."""
    soon = datetime.now(UTC) + timedelta(hours=1)
    given: BatchOptions = {
        "not_before": soon,
        "finish_by": soon + timedelta(hours=1),
        "daily_window": "22:00-06:00",
        "window_seconds": 60,
        "max_cost_usd": 5,
        "max_attempts": 2,
        "max_in_flight": 3,
        "webhook": "https://example.com/hook",
        "metadata": {"team": "a"},
        "dedupe": True,
        "skip_bad": True,
    }
    assert set(given) == set(get_type_hints(BatchOptions))
    wanted = read_options("acme", given)
    assert all(getattr(wanted, name) is not None for name in given)
