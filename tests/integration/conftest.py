"""What the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.batch_factories import submit, write_file
from tests.factories import opened
from tests.fakes import Provider, Workplace, workplace
from tests.rig.deliveries import SECRET
from tests.rig.gateway import Gateway
from tests.rig.hookd import HookReceiver
from tests.rig.receipts import unverified
from worker.db.batches.records import BatchRow
from worker.db.connect import Database
from worker.producer.stockpot import Stockpot
from worker.webhooks.secrets import Vault


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh database of each kind, with the tables. Its Redis is nowhere: what is told to it is lost, and must not matter."""
    with opened(database_url, redis_url="redis://127.0.0.1:1/0") as database:
        yield database


@pytest.fixture
def batch(database: Database, tmp_path: Path) -> BatchRow:
    """A batch of ten lines, `r-1` to `r-10`, imported."""
    return submit(database, write_file(tmp_path / "in.jsonl", 10))[0]


@pytest.fixture
def sqlite(sqlite_url: str) -> Iterator[Database]:
    """A fresh SQLite database with the tables, for what is the same on both kinds."""
    with opened(sqlite_url) as database:
        yield database


@pytest.fixture
def vault() -> Vault:
    """A vault whose tenant `default` signs with SECRET."""
    return Vault([b"a key of this test only, long enough"], tenant_secrets=[SECRET])


@pytest.fixture
def hooks() -> Iterator[HookReceiver]:
    """A receiver that knows SECRET. In the end every delivery is verified by both libraries with one of its secrets."""
    with HookReceiver([SECRET]) as hooks:
        yield hooks
    assert list(unverified(hooks.deliveries(), hooks.secrets)) == []


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    """A provider that answers at once."""
    with Provider(tmp_path) as provider:
        yield provider


@pytest.fixture
def served(provider: Provider, sqlite_url: str, redis_url: str) -> Iterator[Workplace]:
    """A worker at its place, for those who call through `gateway`."""
    with workplace(provider, sqlite_url, redis_url) as place:
        place.start()
        yield place


@pytest.fixture
def gateway(served: Workplace) -> Iterator[Gateway]:
    """The HTTP gateway before that worker."""
    with Gateway(served.settings) as gateway:
        yield gateway


@pytest.fixture
def place(tmp_path: Path, sqlite_url: str, redis_url: str) -> Iterator[Workplace]:
    """A database, a Redis and a provider; the test starts the workers."""
    with Provider(tmp_path) as provider, workplace(provider, sqlite_url, redis_url, total_timeout=100) as place:
        yield place


@pytest.fixture
def pot(place: Workplace) -> Iterator[Stockpot]:
    """A producer beside the place."""
    with Stockpot(place.settings) as pot:
        yield pot
