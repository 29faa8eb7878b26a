"""Import, on both databases: every line once, in order, resumable, one importer at a time."""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.batch_factories import LONGEST, submit, write_file
from tests.factories import chat, rows, sql
from worker.base.errors import NotAllowed
from worker.batches import importing
from worker.batches.importing import Options, Quoted, When
from worker.batches.reading import BatchFile, FileChanged
from worker.batches.survey import survey
from worker.db.batches import lines_in, records
from worker.db.batches.lines_in import ImportLine
from worker.db.connect import Database
from worker.job.consequences import Consequences


def lines_of(database: Database, batch: str) -> list[tuple[int, str]]:
    found = rows(database, "SELECT line, custom_id FROM jobs WHERE batch_id = :b ORDER BY due_at, id", b=batch)
    return [(row["line"], row["custom_id"]) for row in found]


@pytest.mark.clear
def test_every_line_becomes_a_queued_bulk_job_in_the_order_of_the_file(database: Database, tmp_path: Path) -> None:
    """The claim's order is the file's."""
    batch, created = submit(database, write_file(tmp_path / "in.jsonl", 2_500, max_tokens=7))
    assert created
    assert (batch.total, batch.imported, batch.done, batch.status) == (2_500, 2_500, 0, "in_progress")
    assert lines_of(database, batch.id) == [(number, f"r-{number}") for number in range(1, 2_501)]
    [kinds] = rows(database, "SELECT DISTINCT lane, status, stream, endpoint, model, tenant, max_attempts FROM jobs")
    assert (kinds["lane"], kinds["status"], kinds["model"], kinds["max_attempts"]) == ("bulk", "queued", "m/one", 5)
    [body] = rows(
        database,
        "SELECT CAST(body AS text) AS body FROM requests JOIN jobs ON jobs.id = job_id WHERE line = 1234",
    )
    assert json.loads(body["body"]) == chat("prompt 1234", max_tokens=7)


@pytest.mark.clear
def test_what_json_and_copy_escape_comes_through_to_the_letter(database: Database, tmp_path: Path) -> None:
    """Tabs, line breaks, backslashes, quotes, astral characters; in ids, models and bodies."""
    nasty = 'tab\there\nnew \\n \\\\ line "quote" \r \\. \\N ünï 🍲 \u2028'
    body = chat(nasty, model="m\\one ünï", stream=True)
    path = tmp_path / "in.jsonl"
    document = {"custom_id": nasty, "method": "POST", "url": "/v1/chat/completions", "body": body}
    path.write_text(json.dumps(document))
    submit(database, path)
    [job] = rows(
        database, "SELECT custom_id, model, stream, CAST(body AS text) AS body FROM jobs JOIN requests ON id = job_id"
    )
    assert (job["custom_id"], job["model"], bool(job["stream"])) == (nasty, "m\\one ünï", True)
    assert json.loads(job["body"]) == body


def test_the_same_file_with_the_same_options_is_the_same_batch(database: Database, tmp_path: Path) -> None:
    """However often it is submitted, and whatever it is called; other options are another batch, on request."""
    path = write_file(tmp_path / "in.jsonl", 10)
    first, created = submit(database, path)
    again, created_again = submit(database, path.rename(tmp_path / "other.jsonl"))
    assert (created, created_again, again.id) == (True, False, first.id)
    soon = When(datetime.now(UTC) + timedelta(hours=1), "1h")
    later = When(datetime.now(UTC) + timedelta(hours=2), "1h")
    path = tmp_path / "other.jsonl"
    with pytest.raises(NotAllowed, match=rf"(?s)It is {first.id} .*resume.*retry-failed.*--again"):
        submit(database, path, Options(finish_by=soon))
    sql(
        database,
        f"UPDATE batches SET status = 'completed', completed = 10, finished_at = created_at WHERE id = '{first.id}'",
    )
    with pytest.raises(NotAllowed) as over:
        submit(database, path, Options(finish_by=soon))
    assert [word in str(over.value) for word in ("resume", "retry-failed", "--again")] == [False, False, True]
    other, _ = submit(database, path, Options(finish_by=soon), again=True)
    assert other.id != first.id
    assert submit(database, path, Options(finish_by=later))[0].id == other.id, "it was said in the same way"
    repeated, created = submit(database, path, again=True)
    assert created
    assert repeated.id not in {first.id, other.id}
    assert len(lines_of(database, repeated.id)) == 10


def test_an_import_that_stopped_goes_on_after_its_last_committed_slice(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever slice it died in, each line is there once."""
    monkeypatch.setattr(importing, "SLICE", 100)
    monkeypatch.setattr(importing, "SQLITE_SLICE", 100)
    path = write_file(tmp_path / "in.jsonl", 1_050)
    insert = lines_in.insert
    left = 4

    def dies(*arguments: Any, **options: Any) -> None:
        nonlocal left
        insert(*arguments, **options)
        left -= 1
        if left < 0:
            raise ConnectionError("killed")

    monkeypatch.setattr(lines_in, "insert", dies)
    ids = set()
    for _ in range(2):
        left = 4
        with pytest.raises(ConnectionError):
            submit(database, path)
        [batch] = database.read(lambda conn: records.newest(conn, tenant="default"))
        ids.add(batch.id)
    assert batch.imported == 800
    left = 10
    done, created = submit(database, path)
    assert (done.id, created, {done.id}) == (batch.id, False, ids)
    assert lines_of(database, done.id) == [(number, f"r-{number}") for number in range(1, 1_051)]


def test_of_two_imports_of_one_batch_the_second_is_refused_and_writes_nothing(
    database: Database, tmp_path: Path
) -> None:
    """The slice names what it follows."""
    batch, _ = submit(database, write_file(tmp_path / "in.jsonl", 10))
    line = ImportLine(1, "r-1", "/v1/chat/completions", "m", stream=False, body=b"{}")
    with pytest.raises(NotAllowed, match="another command"):
        database.write(lambda conn: lines_in.insert(conn, batch, [line], after=5, on_ambiguous="retry"))
    assert len(lines_of(database, batch.id)) == 10


def test_a_file_that_changes_between_its_two_readings_is_refused(database: Database, tmp_path: Path) -> None:
    """Nothing unvalidated is called."""
    path = write_file(tmp_path / "in.jsonl", 10)
    with BatchFile(str(path), home=tmp_path) as file:
        found = survey(file, max_line_bytes=LONGEST, on_problem=print)
        batch, _ = importing.begin(database, file.name, found, Options(), Quoted())
        with path.open("a") as more:
            more.write("{}\n")
        with pytest.raises(FileChanged):
            importing.import_lines(
                database, batch, file, found, max_line_bytes=LONGEST, write_ends=Consequences().write
            )
    assert lines_of(database, batch.id) == []


def test_a_batch_begins_and_expires_when_it_was_told_to(database: Database, tmp_path: Path) -> None:
    """Its lines with it."""
    start = When(datetime.now(UTC) + timedelta(hours=2), "2h")
    batch, _ = submit(database, write_file(tmp_path / "in.jsonl", 3), Options(not_before=start, window_seconds=3_600))
    assert abs((batch.due_at - start.at).total_seconds()) < 60
    assert abs((batch.expires_at - batch.due_at).total_seconds() - 3_600) < 1
    [times] = rows(database, "SELECT DISTINCT due_at, expires_at FROM jobs")
    [own] = rows(database, "SELECT due_at, expires_at FROM batches")
    assert (times["due_at"], times["expires_at"]) == (own["due_at"], own["expires_at"])


def test_a_pipe_is_kept_and_read_twice_as_stdin_is(tmp_path: Path) -> None:
    """As a shell's `<(…)` gives it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b'{"n": 1}\n{"n": 2}\n',))
    writer.start()
    with BatchFile(str(pipe), home=tmp_path / "home") as file:
        readings = [[line for _, line, _ in file.lines(longest=100)] for _ in range(2)]
    assert readings == [[b'{"n": 1}', b'{"n": 2}']] * 2
    writer.join()
