"""What the provider's log says of an attempt, and what is read of its pages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime

import pytest

from worker.db.jobs.ledger import Entry
from worker.provider.log import LogRow, NoCharges, NoLog, ProviderLog, read_charges, read_page
from worker.reconcile.compare import LATEST, compare, look_up
from worker.upstream.client import UpstreamClient

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
ENDED = BEGAN + timedelta(seconds=5)
NOW = ENDED + timedelta(seconds=1)
ENTRY = Entry("job_1", 2, "ambiguous", BEGAN, ENDED)
BILLED = LogRow("job_1.2", True, Decimal("0.25"), 3, 4, 7, "inf-1")
FREE = replace(BILLED, succeeded=False, cost_usd=Decimal(0))


def test_a_call_that_was_billed_and_whose_answer_is_lost_is_an_orphan() -> None:
    """Its tokens and cost are taken over."""
    mark = compare(ENTRY, BILLED, NOW)
    assert (mark.reconciled, mark.cost_usd, mark.total_tokens) == ("orphaned", Decimal("0.25"), 7)
    assert (mark.job_id, mark.attempt, mark.inference_id) == ("job_1", 2, "inf-1")


def test_a_call_whose_answer_we_have_is_matched() -> None:
    """Billed or free."""
    done = replace(ENTRY, outcome="completed")
    assert compare(done, BILLED, NOW).reconciled == "matched"
    assert compare(done, replace(FREE, succeeded=True), NOW).reconciled == "matched"


def test_a_call_that_is_there_at_no_cost_is_unbilled() -> None:
    """The provider says so: an estimate that stood for it is gone."""
    mark = compare(ENTRY, FREE, NOW)
    assert (mark.reconciled, mark.cost_usd, mark.total_tokens) == ("unbilled", Decimal(0), None)


def test_a_call_that_is_not_there_is_late_until_it_cannot_come_any_more() -> None:
    """Then it is unbilled."""
    assert compare(ENTRY, None, ENDED + LATEST).reconciled == "late"
    after = ENDED + LATEST + timedelta(seconds=1)
    assert (compare(ENTRY, None, after).reconciled, compare(ENTRY, None, after).cost_usd) == ("unbilled", Decimal(0))
    answered = compare(replace(ENTRY, outcome="completed"), None, after)
    assert (answered.reconciled, answered.cost_usd) == ("unbilled", None), "an answer is not free for that"


class OtherClock(UpstreamClient):
    """A provider whose clock is ahead of ours: it has one call of ours in its log, by its own time."""

    def __init__(self, ahead: timedelta, date: datetime | None = None) -> None:
        self._row, self._date, self.asked = BEGAN + ahead, date or NOW + LATEST + ahead, 0

    async def get_json(
        self, path: str, key: str | None = None, params: Mapping[str, str | int] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        self.asked += 1
        asked = params or {}
        inside = datetime.fromisoformat(str(asked["start"])) <= self._row <= datetime.fromisoformat(str(asked["end"]))
        row = {"client_request_id": "job_1.2", "status": "succeeded", "cost": {"usd": 0.25}, "tokens": {}}
        body = json.dumps({"data": [row] if inside else [], "pagination": {"has_more": False}}).encode()
        return 200, {"date": format_datetime(self._date, usegmt=True)}, body


@pytest.mark.parametrize(("minutes", "requests"), [(0, 1), (2, 2), (-60, 2), (-13 * 60, 2)])
def test_a_call_is_found_in_the_log_of_a_provider_whose_clock_differs(minutes: int, requests: int) -> None:
    """It was taken for a call that cost nothing: no row in the window by our clock, which was minutes away."""
    upstream = OtherClock(timedelta(minutes=minutes))
    book = ProviderLog(upstream, lambda: None)
    [mark] = asyncio.run(look_up(book, [ENTRY], NOW + LATEST))
    assert (mark.reconciled, mark.cost_usd) == ("orphaned", Decimal("0.25"))
    assert upstream.asked == requests


def test_a_date_that_is_no_clock_costs_nothing() -> None:
    """A broken server's `Date` is years away: the window by our clock decides."""
    upstream = OtherClock(timedelta(), date=datetime(9999, 12, 31, tzinfo=UTC))
    [mark] = asyncio.run(look_up(ProviderLog(upstream, lambda: None), [ENTRY], NOW))
    assert mark.reconciled == "orphaned"
    [mark] = asyncio.run(look_up(ProviderLog(upstream, lambda: None), [replace(ENTRY, attempt=3)], NOW + 2 * LATEST))
    assert (mark.reconciled, upstream.asked) == ("unbilled", 2)


def test_a_page_is_read_leniently() -> None:
    """Rows of others, without an id, with odd numbers or with text that no database keeps, do not stop it."""
    page = read_page(
        b'{"data": [{"client_request_id": null}, 7, {"client_request_id": "a.1", "status": "succeeded",'
        b' "cost": {"usd": 0.0000175}, "tokens": {"input": "x", "output": 9007199254740992, "total": -1}},'
        b' {"client_request_id": "a.2", "cost": null, "inference_id": "x\\u0000"}], "pagination": {"has_more": true}}'
    )
    assert page.more
    assert page.rows == [
        LogRow("a.1", True, Decimal("0.0000175"), None, None, None, None),
        LogRow("a.2", False, None, None, None, None, "x\N{REPLACEMENT CHARACTER}"),
    ]


def test_a_page_that_promises_more_and_holds_nothing_is_the_last() -> None:
    """Else a broken provider would be asked for ever."""
    assert not read_page(b'{"data": [], "pagination": {"has_more": true}}').more


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"data": null}', b'{"error": "no"}'])
def test_what_is_no_page_is_no_log(body: bytes) -> None:
    """A provider without this route may answer anything."""
    with pytest.raises(NoLog):
        read_page(body)


def test_a_page_of_charges_is_read_leniently() -> None:
    """Charges of an inference are added up; other movements and odd rows do not count."""
    row = '{"direction": "CHARGE", "type": "MODEL_USAGE", "reference_id": "%s", "amount": {"usd": %s, "credits": 1}}'
    other = '{"direction": "TOPUP", "type": "PAYMENT", "reference_id": "a", "amount": {"usd": 50, "credits": 1}}'
    rows = ", ".join([row % ("a", "0.0000175"), row % ("a", "0.5"), row % ("b", '"x"'), other, "7", '{"amount": null}'])
    page = read_charges(f'{{"data": [{rows}], "pagination": {{"next_cursor": "c"}}}}'.encode())
    assert page.charges == {"a": Decimal("0.5000175"), "b": Decimal("5E-7")}
    assert page.cursor == "c"
    assert read_charges(b'{"data": [], "pagination": {"next_cursor": "c"}}').cursor is None
    with pytest.raises(NoCharges):
        read_charges(b"<html>")
