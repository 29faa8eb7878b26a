"""Stored files on both databases and in a folder: written as they come, read from any byte, gone when they are gone."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.factories import opened, rows
from tests.file_factories import content, upload
from tests.rig.environment import FILES_IN
from worker.base.errors import NotFound, SettingsError, Unreachable
from worker.base.payloads import Payloads
from worker.base.settings import Settings
from worker.cli.operations import checks
from worker.db.connect import Database
from worker.db.files import records
from worker.files import place, reading
from worker.files.collector import collect
from worker.files.upload import Upload

BYTES = random.Random(5).randbytes(2_500_000)


@pytest.fixture(params=["sqlite", "postgres", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database whose files are in it, or in a folder (in object storage with `TESTS_FILE_STORE`)."""
    kind = request.param
    url = request.getfixturevalue("sqlite_url" if kind == "folder" else f"{kind}_url")
    folder = (FILES_IN or str(tmp_path / "store")) if kind == "folder" else None
    with opened(url, file_store=folder) as database:
        yield database


def test_an_upload_is_a_file_when_its_last_byte_is_there(store: Database) -> None:
    """Until then nobody sees it; then it has its size and its checksum."""
    begun = Upload(store, tenant="default", filename="x", place=store.settings.file_store)
    for at in range(0, len(BYTES), 70_000):
        begun.write(BYTES[at : at + 70_000])
    with pytest.raises(NotFound):
        store.read(lambda conn: records.get(conn, begun.id, tenant="default"))
    made = begun.finish(purpose="user_data", expires_seconds=None)
    assert (made.bytes, made.sha256) == (len(BYTES), hashlib.sha256(BYTES).hexdigest())
    assert content(store, made) == BYTES


@pytest.mark.parametrize(
    ("start", "end"), [(0, 1), (1_048_575, 1_048_577), (2_499_999, None), (2_500_000, None), (17, 17)]
)
def test_any_range_is_read(store: Database, start: int, end: int | None) -> None:
    """Over the border of two pieces, the last byte, nothing."""
    made = upload(store, BYTES)
    assert b"".join(reading.read(store, made, start, end)) == BYTES[start:end]


def test_another_tenants_file_is_not_there(store: Database) -> None:
    """Neither read, nor listed, nor a place to go on from, nor deleted."""
    made = upload(store, b"{}", tenant="acme")
    for tenant in ("default", "acm"):
        with pytest.raises(NotFound):
            store.read(lambda conn, tenant=tenant: records.get(conn, made.id, tenant=tenant))  # type: ignore[misc]
        with pytest.raises(NotFound):
            store.write(lambda conn, tenant=tenant: records.delete(conn, made.id, tenant=tenant))  # type: ignore[misc]
        listed = store.read(
            lambda conn, tenant=tenant: records.page(  # type: ignore[misc]
                conn, tenant=tenant, purpose=None, after=None, limit=10, newest_first=True
            )
        )
        assert listed == []
    assert content(store, store.read(lambda conn: records.get(conn, made.id, tenant="acme"))) == b"{}"


def left(database: Database) -> tuple[int, int, int]:
    """Rows, pieces, and objects in the folder."""
    [files] = rows(database, "SELECT count(*) AS n FROM files")
    [pieces] = rows(database, "SELECT count(*) AS n FROM file_pieces")
    folder = database.settings.file_store
    return files["n"], pieces["n"], 0 if folder is None else sum(1 for one in Path(folder).rglob("*") if one.is_file())


def test_what_is_deleted_or_over_is_gone_at_once_and_collected(store: Database) -> None:
    """Rows, pieces and objects."""
    deleted, timed, kept = (upload(store, BYTES[: 1_200_000 + at]) for at in range(3))
    store.write(lambda conn: records.delete(conn, deleted.id, tenant="default"))
    store.write(lambda conn: conn.exec_driver_sql(f"UPDATE files SET expires_at = created_at WHERE id = '{timed.id}'"))
    for gone in (deleted, timed):
        with pytest.raises(NotFound):
            store.read(lambda conn, gone=gone: records.get(conn, gone.id, tenant="default"))  # type: ignore[misc]
    assert collect(store) == 2
    files, pieces, _ = left(store)
    assert (files, content(store, kept)) == (1, BYTES[:1_200_002])
    assert pieces == (1 if store.settings.file_store else 2)
    assert collect(store) == 0


def test_an_upload_that_broke_off_is_collected_and_a_slow_one_is_not(store: Database) -> None:
    """Its pieces, and the object that had no row yet."""
    broken = Upload(store, tenant="default", filename="x", place=store.settings.file_store)
    slow = Upload(store, tenant="default", filename="y", place=store.settings.file_store)
    broken.write(BYTES * 2)
    if store.settings.file_store:
        place.put(store.settings.file_store, broken.id, 10**9, b"its process died before the row", store.payloads)
    assert collect(store) == 0
    long_ago = "2020-01-01 00:00:00.000"
    store.write(lambda conn: conn.exec_driver_sql(f"UPDATE files SET touched_at = '{long_ago}'"))
    slow.write(BYTES * 2)
    assert collect(store) == 1
    with pytest.raises(NotFound, match="given up"):
        broken.finish(purpose="batch", expires_seconds=None)
    assert content(store, slow.finish(purpose="batch", expires_seconds=None)) == BYTES * 2
    assert left(store)[0] == 1


def test_memory_is_flat_whatever_the_size(sqlite_url: str) -> None:
    """Forty megabytes written and read in a few pieces' room."""
    with opened(sqlite_url) as database:
        begun = Upload(database, tenant="default", filename="x", place=None)
        tracemalloc.start()
        for _ in range(40):
            begun.write(bytes(1_000_000))
        made = begun.finish(purpose="user_data", expires_seconds=None)
        assert sum(len(part) for part in reading.read(database, made)) == 40_000_000
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 12_000_000


def test_a_storage_that_lost_a_piece_says_so(tmp_path: Path, sqlite_url: str) -> None:
    """Rather than a shorter file."""
    with opened(sqlite_url, file_store=str(tmp_path / "store")) as database:
        made = upload(database, b"{}")
        for one in (tmp_path / "store").rglob("0*"):
            one.unlink()
        with pytest.raises(Unreachable, match="the file storage"):
            content(database, made)


class Buckets:
    """Object storage as s3fs shows it: making a folder of what is no bucket makes that bucket."""

    protocol = ("s3", "s3a")

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, bytes]] = {}

    def makedirs(self, path: str, *, exist_ok: bool) -> None:
        assert exist_ok
        self.buckets.setdefault(path.split("/", maxsplit=1)[0], {})

    def pipe_file(self, path: str, value: bytes) -> None:
        bucket, _, key = path.partition("/")
        if bucket not in self.buckets:
            raise FileNotFoundError("The specified bucket does not exist")
        self.buckets[bucket][key] = value

    def cat_file(self, path: str) -> bytes:
        bucket, _, key = path.partition("/")
        return self.buckets[bucket][key]

    def rm(self, path: str, *, recursive: bool) -> None:
        bucket, _, prefix = path.partition("/")
        assert recursive
        for key in [key for key in self.buckets[bucket] if key.startswith(f"{prefix}/")]:
            del self.buckets[bucket][key]


def test_a_bucket_that_is_not_there_is_not_made_and_its_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slip of the pen would store the files where nobody looks for them, or for anybody."""
    storage = Buckets()
    monkeypatch.setattr(place, "_opened", lambda where: (storage, where.removeprefix("s3://")))
    settings = Settings(file_store="s3://slip/files")
    with pytest.raises(Unreachable, match="STOCKPOT_FILE_STORE: there is no such bucket"):
        place.put("s3://slip/files", "file-1", 0, b"data", Payloads())
    [found] = checks.file_store(settings)
    assert (found.outcome, found.name) == ("unreachable", "file storage") and "credentials" in found.mend
    assert storage.buckets == {}
    storage.buckets["slip"] = {}
    assert [one.outcome for one in checks.file_store(settings)] == ["ok"]
    assert storage.buckets == {"slip": {}}
    monkeypatch.setattr(Buckets, "protocol", "memory")
    place.put("other/files", "file-1", 0, b"data", Payloads())
    assert storage.buckets["other"] == {"files/file-1/000000000000000": b"data"}


def test_a_kind_of_storage_that_nobody_knows_is_refused_with_the_settings_name() -> None:
    with pytest.raises(SettingsError, match="STOCKPOT_FILE_STORE"):
        place.check("carrier-pigeon://loft")
