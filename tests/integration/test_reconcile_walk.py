"""The walk through the provider's books: charges confirm the log, and a killed walk goes on at its page."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from click.testing import CliRunner

from api_schemas.jobs import parse_job
from tests.factories import attempt_rows, chat, claimed, rows, settled, settlement, sql, submitted
from tests.fakes import Provider, workplace
from tests.rig.procs import Process
from tests.rig.waiting import eventually
from worker.cli.app import main
from worker.db.connect import Database
from worker.db.jobs import submit
from worker.provider.log import ChargePage, LogRow, Page, StaleCursor
from worker.reconcile import NoCharges, ProviderCharges, ProviderLog, walk

STOCKPOT = Path(sys.executable).with_name("stockpot")


class Books:
    """Both books, scripted: what they say, and what they were asked."""

    def __init__(self) -> None:
        self.rows: list[LogRow] = []
        self.charged: dict[str, Decimal] = {}
        self.refuse: Exception | None = None
        self.ahead = timedelta()  # the provider's clock
        self.requests = 0

    def log(self) -> ProviderLog:
        """The log."""
        return cast("ProviderLog", _Log(self))

    def charges(self) -> ProviderCharges:
        """The transactions."""
        return cast("ProviderCharges", _Charges(self))


class _Log:
    def __init__(self, books: Books) -> None:
        self._books = books
        self.requests = 0

    async def pages(self, begin: datetime, end: datetime, *, first: int = 0, **_: Any) -> AsyncIterator[Page]:
        self.requests += 1
        inside = begin <= datetime.now(UTC) + self._books.ahead - timedelta(seconds=1) <= end
        yield Page(self._books.rows if inside or not self._books.ahead else [], more=False)

    def ahead(self, now: datetime) -> timedelta:
        return self._books.ahead


class _Charges:
    def __init__(self, books: Books) -> None:
        self._books = books
        self.requests = 0

    async def pages(self, begin: datetime, end: datetime, cursor: str | None = None) -> AsyncIterator[ChargePage]:
        self.requests += 1
        if self._books.refuse is not None:
            raise self._books.refuse
        if cursor == "stale":
            raise StaleCursor
        yield ChargePage(self._books.charged, None)


def called(database: Database, outcome: str, **fields: Any) -> str:
    """A job with one call that came to this; its client request id."""
    [job] = claimed(database, *submitted(database))
    status = "completed" if outcome == "completed" else "failed"
    settled(database, settlement(job, status=status, outcome=outcome, **fields))
    return job.client_request_id


def billed(name: str, usd: str) -> LogRow:
    """A row of the log; the inference is called like the request."""
    return LogRow(name, True, Decimal(usd), 3, 4, 7, f"inf-{name}")


async def walked(database: Database, books: Books) -> tuple[Counter[str], list[str]]:
    """Walk; what was counted and what was told."""
    told: list[str] = []
    counted = await walk(books.log(), books.charges(), database, None, told.append)
    return counted, told


def attempt(database: Database, name: str) -> Any:
    """The ledger's row of a call."""
    return attempt_rows(database, name.rpartition(".")[0])[0]


def grow_old(database: Database) -> None:
    """Calls that ended so long ago that nothing more can come of them."""
    past = "datetime('now', '-1 hour')" if database.is_sqlite else "statement_timestamp() - interval '1 hour'"
    sql(database, f"UPDATE attempts SET finished_at = {past}")


@pytest.mark.anyio
async def test_a_call_is_late_until_its_charge_is_seen(database: Database) -> None:
    """Then the charge is its cost, whoever said what before; only the answer's own word stays."""
    books = Books()
    lost, done = called(database, "ambiguous"), called(database, "completed")
    guessed = called(database, "completed", cost_usd=Decimal("0.9"), cost_source="estimated")
    said = called(database, "completed", cost_usd=Decimal("0.7"), cost_source="provider")
    books.rows = [billed(lost, "0.5"), billed(done, "0.5"), billed(guessed, "0.5"), billed(said, "0.7")]
    assert (await walked(database, books))[0] == {"late": 4}
    books.charged = {f"inf-{name}": Decimal("0.6") for name in (lost, done, guessed, said)}
    counted, told = await walked(database, books)
    assert counted == {"orphaned": 1, "matched": 3}
    costs = [attempt(database, name)["cost_picousd"] for name in (lost, done, guessed, said)]
    assert costs == [600_000_000_000] * 3 + [700_000_000_000]
    assert [line for line in told if said in line], "a charge that differs from the answer's word is told"
    assert (await walked(database, books))[0] == {}


@pytest.mark.anyio
async def test_a_charge_is_found_without_the_log_when_the_answer_named_its_inference(database: Database) -> None:
    """A stream that broke after its headers."""
    books = Books()
    name = called(database, "partial", inference_id="inf-1")
    books.charged = {"inf-1": Decimal("0.25"), "inf-of-somebody-else": Decimal(1)}
    assert (await walked(database, books))[0] == {"orphaned": 1}
    assert attempt(database, name)["cost_picousd"] == 250_000_000_000


@pytest.mark.anyio
async def test_without_transactions_the_logs_word_is_final(database: Database) -> None:
    """A provider that has none, or a key that may not read them."""
    books = Books()
    books.refuse = NoCharges("GET /v2/billing/transactions answered 404")
    lost, free = called(database, "ambiguous"), called(database, "retryable")
    books.rows = [billed(lost, "0.5"), LogRow(free, False, Decimal(0), 0, 0, 0, "inf-x")]
    counted, told = await walked(database, books)
    assert counted == {"orphaned": 1, "unbilled": 1}
    assert [line for line in told if "404" in line]
    assert attempt(database, lost)["cost_picousd"] == 500_000_000_000


@pytest.mark.anyio
async def test_a_charge_that_never_comes_leaves_the_logs_word(database: Database) -> None:
    """After a quarter of an hour; and what is in no book was not billed."""
    books = Books()
    lost, nowhere = called(database, "ambiguous"), called(database, "ambiguous")
    books.rows = [billed(lost, "0.5")]
    grow_old(database)
    assert (await walked(database, books))[0] == {"orphaned": 1, "unbilled": 1}
    assert attempt(database, lost)["cost_picousd"] == 500_000_000_000
    assert attempt(database, nowhere)["cost_picousd"] == 0


@pytest.mark.anyio
async def test_a_cursor_that_is_not_taken_any_more_begins_the_transactions_anew(database: Database) -> None:
    """The bookmark of a run that was killed days ago."""
    books = Books()
    name = called(database, "completed", inference_id="inf-1")
    books.charged = {"inf-1": Decimal("0.5")}
    began = attempt(database, name)["started_at"]
    begin = began if isinstance(began, str) else began.isoformat()
    place: dict[str, Any] = {
        "begin": f"{begin[:13]}:00:00+00:00",
        "end": "2999-01-01T00:00:00+00:00",
        "phase": "charges",
    }
    place |= {"first": place["begin"], "last": place["end"].replace("2999", "2998"), "page": 1, "cursor": "stale"}
    sql(database, "INSERT INTO bookmarks (name, place) VALUES ('reconcile', :place)", place=json.dumps(place))
    assert (await walked(database, books))[0] == {"matched": 1}
    assert rows(database, "SELECT name FROM bookmarks") == []


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    with Provider(tmp_path) as provider:
        yield provider


def test_a_walk_that_is_killed_goes_on_at_its_page(
    provider: Provider,
    database_url: str,
    redis_url: str,
    stockpot_env: Callable[..., dict[str, str]],
    launch: Callable[..., Process],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGKILL after two pages of the log: the next run asks for the third, and every call is marked."""
    count = 320
    with workplace(provider, database_url, redis_url, concurrency=50) as place:
        requests = [parse_job(chat(str(number), model="m@sim:ok")) for number in range(count)]
        place.database.write(lambda conn: submit.insert(conn, requests, place.settings))
        place.start()
        done = "SELECT count(*) AS n FROM jobs WHERE status = 'completed'"
        eventually(lambda: rows(place.database, done)[0]["n"] == count, what="all are done")
        for engine in place.engines:
            engine.drain()  # it would look calls up by itself
        configure(provider, logs_rpm=2)  # the third page is refused: a walk waits there
        env = stockpot_env(database_url=database_url, upstream_url=provider.url, api_key="sk-test")
        first = launch([STOCKPOT, "reconcile"], name="reconcile", env=env)
        marked = "SELECT place FROM bookmarks WHERE name = 'reconcile'"
        eventually(
            lambda: [one for one in rows(place.database, marked) if '"page":2' in one["place"]], what="two pages"
        )
        first.kill9()
        assert rows(place.database, "SELECT 1 FROM attempts WHERE reconciled IS NULL")
        configure(provider, logs_rpm=1_000)
        asked = counting(provider, monkeypatch)
        for name, value in (("DATABASE_URL", database_url), ("UPSTREAM_URL", provider.url), ("API_KEY", "sk-test")):
            monkeypatch.setenv(f"STOCKPOT_{name}", value)
        again = CliRunner().invoke(main, ["reconcile", "--json"])
        assert again.exit_code == 0, again.output
        assert len(asked) == 2, "pages three and four"
        marks = Counter(one["reconciled"] for one in rows(place.database, "SELECT reconciled FROM attempts"))
        assert marks == {"matched": count}
        assert json.loads(again.stdout)["matched"] == count
        assert rows(place.database, "SELECT place FROM bookmarks WHERE name = 'reconcile'") == []


def configure(provider: Provider, **config: object) -> None:
    """Change the simulator's settings."""
    httpx.post(provider.url.removesuffix("/v1") + "/_sim/config", json=config).raise_for_status()


def counting(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests to the log from now on."""
    asked: list[str] = []
    state = provider.simulator.state
    assert state is not None

    def allowed(key: str, *_: object, **__: object) -> bool:
        asked.append(key)
        return True

    monkeypatch.setattr(type(state.limits), "logs_allowed", lambda self, *args, **more: allowed(*args, **more))
    return asked


@pytest.mark.anyio
async def test_a_provider_whose_clock_differs_is_asked_by_its_own(database: Database) -> None:
    """By ours the window is empty, and the call would be taken for one that cost nothing."""
    books = Books()
    books.ahead = timedelta(hours=3)
    lost = called(database, "ambiguous")
    books.rows = [billed(lost, "0.5")]
    books.charged = {f"inf-{lost}": Decimal("0.5")}
    counted, _ = await walked(database, books)
    assert counted == {"orphaned": 1}
