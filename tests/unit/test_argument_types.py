"""An argument of a wrong type is refused by name, by every verb of every object, on both faces."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from worker import AsyncStockpot, InvalidRequest, Settings, Stockpot
from worker.producer.batch_options import BatchOptions, read_options

BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
#: Arguments that a verb needs, of the right type.
NEEDED: dict[str, Any] = {"request": BODY, "requests": [BODY], "usd": 5, "file": __file__, "url": "https://a.example"}
OBJECTS = ("", "batches", "files", "webhooks", "budgets", "routes")
#: What is wrong for some option or other.
VALUES = ("text", 5, -1, 2.5, True, Decimal(1), [1], {"a": 1}, datetime(2030, 1, 1), datetime.now(UTC), b"x", object())  # noqa: DTZ001


def verbs(of: object) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The public methods of an object, but for those that have nothing to do with arguments."""
    for name, _ in inspect.getmembers(type(of), inspect.isfunction):
        if not name.startswith("_"):
            yield name, getattr(of, name)


@pytest.mark.parametrize("face", [Stockpot, AsyncStockpot])
@pytest.mark.parametrize("place", OBJECTS)
def test_an_argument_that_no_verb_can_take_is_refused_by_name(place: str, face: Any, tmp_path: Path) -> None:
    """Before anything is connected to: this producer reaches nothing."""
    pot = face(Settings(home=tmp_path, database_url="postgresql://u@127.0.0.1:9/x", redis_url="redis://127.0.0.1:9/0"))
    seen = 0
    for name, verb in verbs(getattr(pot, place) if place else pot):
        parameters = inspect.signature(verb).parameters
        needed = {
            one.name: NEEDED.get(one.name, "x")
            for one in parameters.values()
            if one.default is one.empty and one.kind is not one.VAR_KEYWORD
        }
        for parameter in parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                continue
            with pytest.raises((InvalidRequest, TypeError)) as refused:
                done = verb(**{**needed, parameter.name: object()})
                if inspect.iscoroutine(done):
                    asyncio.run(done)
            assert parameter.name in str(refused.value), (name, parameter.name, refused.value)
            seen += 1
    assert seen > 5 or place in {"budgets", "routes"}


@pytest.mark.parametrize("option", BatchOptions.__annotations__)
def test_any_value_of_an_option_of_a_batch_is_taken_or_refused_by_name(option: str) -> None:
    """Never an error from within."""
    refused = []
    for value in VALUES:
        given: Any = {option: value}
        try:
            read_options("default", given)
        except InvalidRequest as error:
            refused.append(value)
            assert [problem.field for problem in error.problems] == [option]
    assert len(refused) >= len(VALUES) - 4


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda pot: pot.batches.submit(__file__, not_before="tomorrow"), "not_before"),
        (lambda pot: pot.batches.results("batch_x", order="backwards"), "order"),
        (lambda pot: pot.list(status="done"), "status"),
        (lambda pot: pot.page(since="yesterday"), "since"),
        (lambda pot: pot.usage(by="day"), "by"),
        (lambda pot: pot.usage(since=datetime(2030, 1, 1)), "since"),  # noqa: DTZ001
        (lambda pot: pot.wait("job_x", "60"), "timeout"),
        (lambda pot: pot.webhooks.add("https://a.example", events="job.completed"), "events"),
        (lambda pot: pot.webhooks.events(status=["dead", "late"]), "status"),
        (lambda pot: pot.webhooks.replay(since="2030-01-01"), "since"),
        (lambda pot: pot.budgets.set(5, all_tenants="no"), "all_tenants"),
        (lambda pot: pot.submit_many(BODY), "requests"),
        (lambda pot: pot.submit(BODY, max_attempts=[1]), "max_attempts"),
    ],
)
def test_what_looks_right_and_is_not_is_refused_by_name(call: Any, field: str, tmp_path: Path) -> None:
    """Each was read as something else, or raised an error from within."""
    with pytest.raises(InvalidRequest) as refused:
        call(Stockpot(Settings(home=tmp_path)))
    assert [problem.field for problem in refused.value.problems] == [field]
