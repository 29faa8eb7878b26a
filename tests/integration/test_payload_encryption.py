"""Payloads encrypted at rest: nothing of a prompt or an answer is found anywhere, every verb works, keys are replaced."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.batch_factories import again, claimed, end, export, over, submit, write_file
from tests.conftest import migrate
from tests.factories import attempt_rows, opened, request, row, rows, settled, settlement, sqlite_path, submitted
from tests.factories import claimed as claimed_jobs
from tests.fakes import Provider, workplace
from tests.file_factories import content, upload
from tests.rig import canary
from tests.rig.gateway import Gateway
from tests.rig.hookd import HookReceiver
from tests.rig.monitor import Monitor
from tests.rig.valkey import ValkeyServer
from tests.rig.waiting import eventually
from worker import Stockpot
from worker.base.errors import SettingsError
from worker.base.payloads import Payloads, Unreadable
from worker.cli.operations import checks
from worker.db import copying, payloads
from worker.db.batches.retry import FAILED, page
from worker.db.calls import records
from worker.db.calls.records import NewCall
from worker.db.connect import Database
from worker.db.jobs import lookup
from worker.db.ready import ensure_schema
from worker.db.webhooks import outbox
from worker.db.webhooks.outbox import EventRow
from worker.files import resealing
from worker.webhooks.secrets import Vault

OLD, NEW = "an old key that is long enough", "a new key that is long enough"


def with_key(database: Database, key: str | None, **settings: Any) -> Any:
    """The same database, opened with these keys."""
    return opened(database.settings.database_url, payload_key=key, **settings)


def test_no_prompt_and_no_answer_is_found_anywhere(
    provider: Provider, database_url: str, valkey: ValkeyServer, tmp_path: Path, hooks: HookReceiver
) -> None:
    """Streamed, failed, over the gateway, in a batch and a file, with a webhook; then everything is searched."""
    prompt = "canary-prompt-4f1a"
    given = {"payload_key": NEW, "webhook_secret": hooks.secrets[0], "webhook_allow_private": "127.0.0.0/8"}
    with (
        workplace(provider, database_url, valkey.url, home=tmp_path / "home", **given) as place,
        Monitor(valkey, tmp_path / "monitor") as monitor,
    ):
        ensure_schema(place.settings)
        place.start()
        with Stockpot(settings=place.settings) as pot, Gateway(place.settings) as gateway, gateway.sdk() as sdk:
            live = place.submit(stream=True, prompt=prompt, webhook=hooks.url("/ok"))
            text = "".join(event.get("text", "") for event in pot.events(live))
            place.ended(place.submit("400", prompt=prompt))
            cut = place.submit("slow=5000", stream=True, prompt=prompt)
            next(event for event in pot.events(cut) if event["type"] == "chunk")
            pot.cancel(cut)
            first = sdk.responses.create(model="m@sim:ok", input=prompt)
            more = sdk.responses.create(model="m@sim:ok", input=f"{prompt} again", previous_response_id=first.id)
            kept = list(sdk.responses.input_items.list(more.id))
            upload(place.database, json.dumps({"prompt": prompt}).encode())
            lines = write_file(tmp_path / "in.jsonl", 3, user=prompt)
            batch = submit(place.database, lines)[0]
            lines.unlink()
            eventually(lambda: again(place.database, batch.id).finished_at is not None, what="the batch is over")
            eventually(hooks.deliveries, what="the webhook came")
            done = pot.wait(live)
        assert done.text == text
        assert text
        assert prompt in str(kept)
        assert done.text in str(hooks.deliveries()[0].body)
        words = text[: max(12, len(text) // 2)]
        tokens = {"prompt": prompt, "answer": words}
        monitored = monitor.path.read_bytes()
        found = canary.database_columns(database_url) + canary.redis_keys(valkey.url) + [("monitor", monitored)]
        found += _on_disk(database_url)
    assert b"sealed:1:" in monitored
    assert canary.scan(found, tokens) == []


def _on_disk(url: str) -> list[tuple[str, bytes]]:
    """SQLite's file with its log; PostgreSQL's dump, where the program is installed."""
    if url.startswith("sqlite"):
        file = sqlite_path(url)
        return [(path.name, path.read_bytes()) for path in file.parent.glob(f"{file.name}*")]
    program = shutil.which("pg_dump")
    if program is None:
        return []
    dump = subprocess.run([program, url.replace("+psycopg", "")], capture_output=True, check=False)
    return [("pg_dump", dump.stdout)]


def test_without_the_key_a_job_waits_and_loses_nothing(provider: Provider, database: Database, redis_url: str) -> None:
    """A worker of before the rotation: it spends no attempt, calls nobody, and names the key; one with it goes on."""
    url = database.settings.database_url
    with workplace(provider, url, redis_url, payload_key=OLD) as place:
        with with_key(database, f"{NEW},{OLD}") as newer:
            [job] = submitted(newer, request("hello", model="m@sim:ok"))
        engine = place.start()
        engine.ring([job])
        eventually(lambda: row(database, job)["waiting_on"] == "payload_key", what="it waits for the key")
        assert (row(database, job)["attempts"], provider.calls(job)) == (0, [])
        with Stockpot(settings=place.settings) as pot:
            waiting = pot.waiting(job)
        assert waiting is not None
        assert "STOCKPOT_PAYLOAD_KEY" in waiting.text
        engine.drain()
    with workplace(provider, url, redis_url, payload_key=f"{NEW},{OLD}") as place:
        database.write(lambda conn: _make_due(conn, job))
        place.start().ring([job])
        assert place.ended(job).status == "completed"
        assert len(provider.calls(job)) == 1


def _make_due(conn: Any, job: str) -> None:
    past = "2000-01-01 00:00:00.000"
    conn.exec_driver_sql(f"UPDATE jobs SET due_at = '{past}' WHERE id = '{job}'")


def test_who_has_not_the_key_is_kept_out(database: Database) -> None:
    """What it wrote would stand in clear beside what is encrypted. The sentence names the key, the doctor too."""
    with with_key(database, OLD) as first:
        ensure_schema(first.settings)
    for key in (None, NEW):
        with with_key(database, key) as other, pytest.raises(SettingsError, match="STOCKPOT_PAYLOAD_KEY"):
            ensure_schema(other.settings)
    with with_key(database, f"{NEW},{OLD}") as newer:
        ensure_schema(newer.settings)
    with with_key(database, OLD) as first, pytest.raises(SettingsError, match=Payloads([NEW]).key_ids[0]):
        ensure_schema(first.settings)
    [check] = [one for one in checks.database(first.settings) if one.name == "payload key"]
    assert (check.outcome, "STOCKPOT_PAYLOAD_KEY" in check.detail) == ("failed", True)


def filled(database: Database, tmp_path: Path) -> dict[str, str]:
    """A row in every encrypted column; the ids by kind."""
    good, bad = submitted(database, request("good"), request("bad"))
    settled(database, *(settlement(job, response='{"a": 1}', text="yes") for job in claimed_jobs(database, good)))
    [failed] = claimed_jobs(database, bad)
    settled(
        database,
        settlement(failed, status="failed", outcome="failed", error_body="no", partial_text="ye", text="ye"),
    )
    asked = NewCall(
        good, "default", None, False, "response", {"input": "so?"}, (), "f", None, 0, True, False, None, 1, None
    )
    database.write(lambda conn: records.insert(conn, asked))
    event = EventRow("evt_1", "default", "job.completed", '{"text": "yes"}', "d", url="https://hooks.example/")
    database.write(lambda conn: outbox.enqueue(conn, [event]))
    file = upload(database, b"a file of ours\n" * 100_000)  # two pieces
    batch = submit(database, write_file(tmp_path / "in.jsonl", 4))[0]
    end(
        database,
        *(
            over(
                job,
                "failed" if at % 2 else "completed",
                **({"error_body": '{"error": {"message": "no"}}'} if at % 2 else {}),
            )
            for at, job in enumerate(claimed(database, batch.id))
        ),
    )
    return {"good": good, "bad": bad, "file": file.id, "batch": batch.id}


def read_all(database: Database, ids: dict[str, str], tmp_path: Path) -> list[Any]:
    """All of it, by the verbs that the product reads with."""
    out, errors = export(database, ids["batch"], tmp_path / "out.jsonl")
    job = lookup_job(database, ids["good"])
    return [
        (job.text, job.response),
        lookup_job(database, ids["bad"]).text,
        database.read(lambda conn: lookup.request(conn, ids["good"])),
        database.read(lambda conn: lookup.error_bodies(conn, ids["bad"])),
        database.read(lambda conn: records.get(conn, ids["good"], tenant="default", kind="response")).asked,
        [line.body for line in database.read(lambda conn: page(conn, ids["batch"], FAILED, after=0, limit=9))],
        [(one["response"], one["error"]) for one in out + errors],
        content(database, database.read(lambda conn: _file(conn, ids["file"]))),
    ]


def lookup_job(database: Database, job: str) -> Any:
    return database.read(lambda conn: lookup.job(conn, job, tenant=None))


def _file(conn: Any, file: str) -> Any:
    from worker.db.files.records import get

    return get(conn, file, tenant=None)


def stored(database: Database, column: payloads.Sealed) -> list[bytes]:
    """What stands in a column, as bytes."""
    value = f"CAST({column.column} AS text)" if column.kind == "json" else column.column
    found = rows(database, f"SELECT {value} AS value FROM {column.table} WHERE {column.column} IS NOT NULL")
    return [bytes(one["value"]) if column.kind == "bytes" else one["value"].encode() for one in found]


def test_keys_are_replaced_and_old_rows_encrypted_again(database: Database, tmp_path: Path) -> None:
    """From clear to a key, to the next one; in the end the first key is needed nowhere, and all reads as before."""
    with with_key(database, None) as clear:
        ids = filled(clear, tmp_path)
        expected = read_all(clear, ids, tmp_path)
    for keys in (OLD, f"{NEW},{OLD}"):
        with with_key(database, keys) as now:
            ensure_schema(now.settings)
            assert read_all(now, ids, tmp_path) == expected
            counts = resealing.everything(now)
            assert all(count for name, count in counts.items() if name != "files outside"), counts
            assert set(resealing.everything(now).values()) == {0}
    with with_key(database, NEW) as last:
        assert read_all(last, ids, tmp_path) == expected
        [event] = last.write(lambda conn: outbox.claim(conn, "w", limit=9, each=9, lease_seconds=9))
        assert Payloads([NEW]).open(event.body, "webhook_events.body:evt_1") == '{"text": "yes"}'
        for column in payloads.SEALED:
            values = stored(last, column)
            assert values, f"{column.table}.{column.column} is tested with nothing"
            mark = f"sealed:1:{Payloads([NEW]).key_ids[0]}:".encode()
            assert all(mark in value[:30] for value in values), column
    with with_key(database, OLD) as first, pytest.raises(Unreadable):
        lookup_job(first, ids["good"])


def test_what_is_written_with_a_key_is_read_by_every_verb(database: Database, tmp_path: Path) -> None:
    """From the first row on: the same as in clear."""
    with with_key(database, NEW) as now:
        ids = filled(now, tmp_path)
        found = read_all(now, ids, tmp_path)
        assert found[0] == ("yes", {"a": 1})
        assert found[3] == {1: "no"}
        assert json.loads(found[2])["messages"][0]["content"] == "good"
        assert attempt_rows(now, ids["bad"])[0]["partial_text"].startswith("sealed:1:")
        [job] = claimed_jobs(now, *submitted(now, request("once more")))
        assert "once more" in job.body
        assert resealing.everything(now)["requests.body"] == 0


def test_a_copied_database_reads_as_before(database: Database, postgres_url: str, tmp_path: Path) -> None:
    """`db copy` moves what is encrypted as it is: it opens in the new place with the same key, and with no other."""
    moved_to = migrate(f"sqlite:///{tmp_path / 'moved.db'}") if not database.is_sqlite else postgres_url
    with with_key(database, f"{NEW},{OLD}") as now, opened(moved_to, payload_key=f"{NEW},{OLD}") as target:
        ensure_schema(now.settings)
        with with_key(database, OLD) as older:
            ids = filled(older, tmp_path)
        expected = read_all(now, ids, tmp_path)
        copying.copy(now, target, lambda _: None)
        assert read_all(target, ids, tmp_path) == expected
        assert sum(resealing.everything(target).values()) > 0
    with opened(moved_to, payload_key=NEW) as last:
        assert read_all(last, ids, tmp_path) == expected
    with opened(moved_to) as clear, pytest.raises(SettingsError, match="STOCKPOT_PAYLOAD_KEY"):
        ensure_schema(clear.settings)


def test_files_outside_the_database_are_encrypted(sqlite: Database, tmp_path: Path) -> None:
    """In clear before, with the key since; a growing piece is read by the bytes that it had."""
    pytest.importorskip("fsspec")
    store = str(tmp_path / "store")
    with with_key(sqlite, None, file_store=store) as clear:
        before = upload(clear, b"clear before\n")
    with with_key(sqlite, NEW, file_store=store) as now:
        after = upload(now, b"hidden since\n")
        objects = [path.read_bytes() for path in Path(store).rglob("*") if path.is_file()]
        assert sorted(b"since" in one for one in objects) == [False, False]
        assert [content(now, file) for file in (before, after)] == [b"clear before\n", b"hidden since\n"]
        assert resealing.everything(now)["files outside"] == 1
        objects = [path.read_bytes() for path in Path(store).rglob("*") if path.is_file()]
        assert not any(b"before" in one for one in objects)
        assert content(now, before) == b"clear before\n"


def test_secrets_of_webhooks_have_a_key_of_their_own(database: Database, vault: Vault) -> None:
    """The two settings are apart: one is replaced without the other."""
    assert vault.key_ids[0] != Payloads(["a key of this test only, long enough"]).key_ids[0]
