"""Bad lines that are skipped are failed lines of the batch: counted, in the errors file, never called, never retried."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.batch_factories import ANSWER, LONGEST, again, claimed, end, export, over
from tests.factories import chat, rows
from worker.base.errors import NotAllowed
from worker.batches import importing
from worker.batches.importing import Options, Quoted
from worker.batches.reading import BatchFile
from worker.batches.survey import survey
from worker.db.batches.records import BatchRow
from worker.db.connect import Database
from worker.job.consequences import Consequences
from worker.producer import batch_control


def line(custom_id: object, **changes: object) -> str:
    made = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": chat("x")} | changes
    return json.dumps(made)


LINES = [
    line("a"),
    "{nonsense",
    line("b", body={"messages": []}),
    line("a"),
    line(7),
    line("c"),
    line("d", body=chat("x" * LONGEST)),
    line("e"),
]


def skipping(database: Database, path: Path) -> BatchRow:
    with BatchFile(str(path), home=path.parent) as file:
        found = survey(file, max_line_bytes=LONGEST, on_problem=lambda _: None, skip_bad=True)
        batch, _ = importing.begin(database, file.name, found, Options(skip_bad=True), Quoted())
        if batch.imported < batch.total:
            importing.import_lines(
                database, batch, file, found, max_line_bytes=LONGEST, write_ends=Consequences().write
            )
    return again(database, batch.id)


def test_good_lines_run_and_bad_ones_are_in_the_errors_file(database: Database, tmp_path: Path) -> None:
    """Every line once, with its own id where it has one; in both orders."""
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(LINES))
    batch = skipping(database, path)
    assert (batch.total, batch.imported, batch.failed, batch.status) == (8, 8, 5, "in_progress")
    jobs = claimed(database, batch.id)
    assert [job.custom_id for job in jobs] == ["a", "c", "e"]
    end(database, *(over(job, response=ANSWER) for job in jobs))
    batch = again(database, batch.id)
    assert (batch.status, batch.completed, batch.failed, batch.calls) == ("completed", 3, 5, 3)
    for follow in (False, True):
        answers, errors = export(database, batch.id, tmp_path / f"out-{follow}.jsonl", follow=follow)
        assert sorted(one["custom_id"] for one in answers) == ["a", "c", "e"]
        assert [one["custom_id"] for one in errors] == [None, "b", None, None, "d"]
        assert all(one["error"]["code"] == "invalid_line" for one in errors)
        assert [one["error"]["message"].split(":")[0] for one in errors] == [f"line {n}" for n in (2, 3, 4, 5, 7)]
    with pytest.raises(NotAllowed, match="no failed"):
        batch_control.retry_failed(database, batch.id, tenant="default")


def test_an_import_that_is_repeated_has_each_bad_line_once(database: Database, tmp_path: Path) -> None:
    """They are behind the last committed line, or before it, as the good ones."""
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(LINES))
    first, second = skipping(database, path), skipping(database, path)
    assert first.id == second.id
    assert [row["line"] for row in rows(database, "SELECT line FROM jobs ORDER BY line")] == list(range(1, 9))


def test_a_file_of_bad_lines_only_is_no_batch(tmp_path: Path) -> None:
    """There is nothing to run."""
    path = tmp_path / "in.jsonl"
    path.write_text("nonsense\n{}\n")
    with BatchFile(str(path), home=tmp_path) as file:
        found = survey(file, max_line_bytes=LONGEST, on_problem=lambda _: None, skip_bad=True)
    assert not found.valid
