"""Batches that are made of stored files, on both databases: read, refused or imported once, and their files filled."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.batch_factories import again, claimed, end, over
from tests.factories import rows
from tests.file_factories import content, errors_of, jsonl, line, order, take_in, upload, write_files
from worker.base.errors import IdempotencyConflict, NotFound
from worker.batches import importing
from worker.batches.reading import BatchFile
from worker.batches.view import batch_object
from worker.db.batches import changes, stored
from worker.db.batches.records import BatchRow
from worker.db.connect import Database
from worker.db.files import records
from worker.files.collector import collect
from worker.files.reading import byte_of_line
from worker.producer.batch_control import cancel

ANSWER = '{"id": "gen", "choices": [{"message": {"content": "a"}}]}'


def file_of(database: Database, file: str | None) -> list[dict[str, Any]]:
    """The lines of a batch's file now."""
    assert file is not None
    row = database.read(lambda conn: records.get(conn, file, tenant="default"))
    lines = [json.loads(one) for one in content(database, row).splitlines()]
    assert len(lines) == row.lines
    return lines


BAD: list[tuple[str, object, str, str | None, str]] = [
    ("not json", b"{nope", "invalid_json_line", None, "not parseable as valid JSON"),
    ("no object", b"[1]", "invalid_json_line", None, "not parseable as valid JSON"),
    ("no custom_id", line(2, custom_id=None), "missing_required_parameter", "custom_id", "'custom_id'"),
    ("no method", line(2, method=None), "missing_required_parameter", "method", "'method'"),
    ("no url", line(2, url=None), "missing_required_parameter", "url", "'url'"),
    ("no body", line(2, body=None), "missing_required_parameter", "body", "'body'"),
    ("no model", line(2, body_model=None), "invalid_request", "body.model", "Model parameter is required."),
    ("no messages", line(2, body_messages=None), "invalid_request", "body.messages", "required"),
    ("other url", line(2, url="/v1/responses"), "invalid_url", "url", "does not match the batch endpoint"),
    ("unknown url", line(2, url="/v1/nothing"), "invalid_url", "url", "does not match the batch endpoint"),
    ("stream", line(2, body_stream=True), "streaming_unsupported", "body.stream", "Streaming is not supported"),
    ("model", line(2, body_model="no/such"), "model_not_found", "body.model", "not supported"),
    ("twice", line(1), "duplicate_custom_id", "custom_id", "custom_id"),
    ("wrong type", line(2, body_messages=7), "invalid_request", "body.messages", "expected"),
]


@pytest.mark.parametrize(("bad", "code", "param", "words"), [pytest.param(*one[1:], id=one[0]) for one in BAD])
def test_a_bad_line_fails_the_batch_with_its_number_and_openais_code(
    database: Database, bad: object, code: str, param: str | None, words: str
) -> None:
    """Nothing is imported, its files are gone, and the good line is not named."""
    batch = order(database, upload(database, jsonl(line(1), bad)).id)
    assert (batch.status, batch_object(batch).to_json()["errors"]) == ("validating", None)
    failed = take_in(database, batch.id, missing={"no/such"})
    [error] = errors_of(failed)
    assert (error["code"], error["line"], error["param"]) == (code, 2, param)
    assert words in error["message"]
    shown = batch_object(failed).to_json()
    assert (shown["status"], shown["output_file_id"], shown["error_file_id"]) == ("failed", None, None)
    assert shown["failed_at"] and shown["finalizing_at"] is None and shown["errors"]["object"] == "list"
    assert rows(database, "SELECT id FROM jobs") == []
    assert [one["status"] for one in rows(database, "SELECT status FROM batches")] == ["failed"]
    assert database.read(stored.to_import) == []


def test_a_batch_calls_no_model_that_its_key_may_not_use(database: Database) -> None:
    """Whether or not the upstream has it."""
    file = upload(database, jsonl(line(1), line(2, body_model="openai/gpt-4o-mini"))).id
    [error] = errors_of(take_in(database, order(database, file, allowed_models='["openai/gpt-5"]').id))
    assert (error["code"], error["line"]) == ("model_not_found", 2)


@pytest.mark.parametrize("kind", ["unknown", "deleted", "another tenant's", "another purpose", "empty"])
def test_a_file_that_cannot_be_a_batch_fails_it(database: Database, kind: str) -> None:
    """Whatever the reason, the batch says it."""
    tenant = "acme" if kind == "another tenant's" else "default"
    purpose = "user_data" if kind == "another purpose" else "batch"
    file = upload(database, b"\n" if kind == "empty" else jsonl(line(1)), purpose=purpose, tenant=tenant).id
    if kind == "deleted":
        database.write(lambda conn: records.delete(conn, file, tenant="default"))
    batch = order(database, "file-unknown" if kind == "unknown" else file)
    [error] = errors_of(take_in(database, batch.id))
    assert error["line"] is None
    if kind in {"unknown", "deleted", "another tenant's"}:
        assert (error["code"], error["param"]) == ("invalid_request", "file_id")
        assert error["message"].startswith("Cannot find file")


def test_a_refused_batch_tells_its_webhook(database: Database) -> None:
    """As `batch.failed`, once."""
    url = "https://example.com/hook"
    batch = order(database, "file-unknown", webhook=url)
    take_in(database, batch.id)
    take_in(database, batch.id)
    [event] = rows(database, "SELECT type, url FROM webhook_events")
    assert event == {"type": "batch.failed", "url": url}


def imported(database: Database, lines: int) -> BatchRow:
    """A batch of a stored file whose lines are all queued."""
    batch = order(database, upload(database, jsonl(*(line(one) for one in range(1, lines + 1)))).id)
    return take_in(database, batch.id)


def test_the_lines_become_jobs_and_the_files_fill_as_they_end(database: Database) -> None:
    """Each custom_id in one of them, once, and the batch ends when they are whole."""
    batch = imported(database, 6)
    assert (batch.status, batch.total, batch.imported, batch.model) == ("in_progress", 6, 6, "openai/gpt-5")
    assert batch_object(batch).error_file_id is None, "there is no error yet"
    jobs = claimed(database, batch.id)
    end(database, over(jobs[0], response=ANSWER), over(jobs[1], "failed", error_class="upstream", error_status=500))
    write_files(database)
    assert [one["custom_id"] for one in file_of(database, batch.output_file_id)] == ["r-1"]
    assert [one["custom_id"] for one in file_of(database, batch.error_file_id)] == ["r-2"]
    end(database, *(over(job, response=ANSWER) for job in jobs[2:]))
    last = again(database, batch.id)
    assert (last.status, last.finished_at) == ("finalizing", None)
    write_files(database)
    shown = batch_object(again(database, batch.id)).to_json()
    assert (shown["status"], shown["request_counts"]) == ("completed", {"total": 6, "completed": 5, "failed": 1})
    assert shown["completed_at"] >= shown["finalizing_at"] >= shown["in_progress_at"] >= shown["created_at"]
    assert [one["custom_id"] for one in file_of(database, shown["output_file_id"])] == [
        f"r-{n}" for n in (1, 3, 4, 5, 6)
    ]
    assert database.read(stored.to_write) == []
    output = database.read(lambda conn: records.get(conn, shown["output_file_id"], tenant="default"))
    assert output.state == "ready" and output.expires_at is not None
    assert 29 <= (output.expires_at - output.created_at).days <= 30
    for skipped in range(6):
        at = byte_of_line(database, output, skipped)
        assert content(database, output)[at:].count(b"\n") == 5 - skipped


def test_a_clean_batch_has_no_error_file_and_one_of_failures_no_output_file(database: Database) -> None:
    """Null, not the id of an empty file."""
    clean, failed = imported(database, 2), imported(database, 2)
    end(database, *(over(job, response=ANSWER) for job in claimed(database, clean.id)))
    end(database, *(over(job, "failed", error_class="upstream") for job in claimed(database, failed.id)))
    write_files(database)
    shown = batch_object(again(database, clean.id))
    assert shown.output_file_id is not None and shown.error_file_id is None
    shown = batch_object(again(database, failed.id))
    assert shown.output_file_id is None and len(file_of(database, shown.error_file_id)) == 2


def test_a_slow_batch_has_few_pieces(database: Database) -> None:
    """What is small is written again, longer."""
    batch = imported(database, 12)
    for job in claimed(database, batch.id):
        end(database, over(job, response=ANSWER))
        write_files(database)
    [count] = rows(database, "SELECT count(*) AS n FROM file_pieces WHERE file_id = :f", f=batch.output_file_id)
    assert (count["n"], len(file_of(database, batch.output_file_id))) == (1, 12)


def test_an_import_that_died_goes_on_behind_its_last_slice(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line is there once, although the file was deleted meanwhile: its bytes are kept until then."""
    monkeypatch.setattr(importing, "SLICE", 10)
    monkeypatch.setattr(importing, "SQLITE_SLICE", 10)
    file = upload(database, jsonl(*(line(one) for one in range(1, 36))))
    batch = order(database, file.id)
    slices = 0

    def die(*_: object) -> None:
        nonlocal slices
        slices += 1
        if slices == 3:
            raise RuntimeError("killed")

    monkeypatch.setattr(BatchFile, "check_unchanged", die)
    with pytest.raises(RuntimeError):
        take_in(database, batch.id)
    monkeypatch.undo()
    half = again(database, batch.id)
    assert half.status == "in_progress" and 0 < half.imported < 35
    database.write(lambda conn: records.delete(conn, file.id, tenant="default"))
    assert collect(database) == 0
    done = take_in(database, batch.id)
    assert (done.imported, done.total) == (35, 35)
    names = [row["custom_id"] for row in rows(database, "SELECT custom_id FROM jobs ORDER BY line")]
    assert names == [f"r-{n}" for n in range(1, 36)]
    assert collect(database) == 1


def test_a_cancelled_batch_ends_with_what_it_has(database: Database) -> None:
    """Answers in the one file, `batch_cancelled` in the other."""
    batch = imported(database, 4)
    end(database, over(claimed(database, batch.id, 1)[0], response=ANSWER))
    cancel(database, batch.id, tenant="default", abort=False)
    shown = batch_object(again(database, batch.id))
    assert (shown.status, shown.cancelling_at is not None) == ("cancelling", True)
    write_files(database)
    shown = batch_object(again(database, batch.id))
    assert shown.status == "cancelled" and len(file_of(database, shown.output_file_id)) == 1
    codes = {one["error"]["code"] for one in file_of(database, shown.error_file_id)}
    assert codes == {"batch_cancelled"}


def test_a_batch_is_cancelled_before_anybody_has_read_its_file(database: Database) -> None:
    """It ends without lines, and nobody imports it."""
    batch = order(database, upload(database, jsonl(line(1))).id)
    database.write(lambda conn: changes.begin_cancel(conn, batch.id, tenant="default"))
    cancel(database, batch.id, tenant="default", abort=False)
    write_files(database)
    shown = batch_object(again(database, batch.id))
    assert (shown.status, shown.in_progress_at, shown.output_file_id) == ("cancelled", None, None)
    assert take_in(database, batch.id).total == 0
    assert rows(database, "SELECT id FROM jobs") == []


def test_an_output_file_that_is_deleted_while_it_grows_stays_deleted(database: Database) -> None:
    """The batch ends all the same."""
    batch = imported(database, 2)
    jobs = claimed(database, batch.id)
    end(database, over(jobs[0], response=ANSWER))
    write_files(database)
    database.write(lambda conn: records.delete(conn, batch.output_file_id or "", tenant="default"))
    end(database, over(jobs[1], response=ANSWER))
    write_files(database)
    assert again(database, batch.id).status == "completed"
    with pytest.raises(NotFound):
        file_of(database, batch.output_file_id)


def test_one_idempotency_key_is_one_batch(database: Database) -> None:
    """With the same parameters the same batch; with others a conflict; for another tenant another batch."""
    file = upload(database, jsonl(line(1))).id
    first = order(database, file, import_key="key:1", fingerprint="a")
    assert order(database, file, import_key="key:1", fingerprint="a").id == first.id
    with pytest.raises(IdempotencyConflict):
        order(database, file, import_key="key:1", fingerprint="b")
    assert order(database, file, import_key="key:1", fingerprint="b", tenant="acme").id != first.id
    [count] = rows(database, "SELECT count(*) AS n FROM files")
    assert count["n"] == 1 + 2 * 2, "no files of a batch that is not there"
