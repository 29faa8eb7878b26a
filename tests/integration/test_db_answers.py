"""An answer's text, stored once: what is left out is what the database reads out of the response, on both databases."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from tests.factories import claimed, request, rows, settled, settlement, submitted
from tests.revisions import upgrade_to
from worker.base.settings import Settings
from worker.db import bookmarks, payloads, schema
from worker.db.connect import Database
from worker.db.jobs import answers, lookup, standings

#: Where a clear answer's text stands; encrypted ones keep both.
pytestmark = pytest.mark.clear

BEFORE = "0010"
TIME = "'2026-01-01 00:00:00.000'"
KEY = "a key of thirty-two bytes or more"


def chat(content: Any, **more: Any) -> str:
    return json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}], **more})


def answered(database: Database, answer: str, response: str) -> str:
    [job] = claimed(database, *submitted(database))
    assert settled(database, settlement(job, text=answer, response=response)) == {job.id}
    return job.id


def read(database: Database, job: str) -> list[str | None]:
    """The text as a job's view, a lookup and a waiting caller have it."""
    [view] = rows(database, f"SELECT text FROM jobs_v WHERE id = '{job}'")
    detail = database.read(lambda conn: lookup.job(conn, job, tenant=None))
    return [view["text"], detail.text, database.read(lambda conn: standings.standings(conn, [job]))[job].text]


def stored(database: Database, job: str) -> tuple[str, bool]:
    [row] = rows(database, f"SELECT text, text_in_response FROM results WHERE job_id = '{job}'")
    return row["text"], bool(row["text_in_response"])


ONCE = {
    "plain": ("a broth", chat("a broth")),
    "escaped": ('"Größe"\n\t\\ \u2028', chat('"Größe"\n\t\\ \u2028')),
    "letters": ("日本語 😀", json.dumps({"choices": [{"message": {"content": "日本語 😀"}}]}, ensure_ascii=False)),
    "two choices": ("one", '{"choices": [{"message": {"content": "one"}}, {"message": {"content": "two"}}]}'),
}
TWICE = {
    "nul": ("a\ufffdb", chat("a\0b")),
    "a nul elsewhere": ("ab", chat("ab", user="\0")),
    "half a pair": ("a\ufffdb", chat("a\ud800b")),
    "another text": ("ab", chat("abc")),
    "no text": ("", chat("hidden")),
    "null": ("", chat(None)),
    "parts": ("ab", chat([{"type": "text", "text": "ab"}])),
    "another API": ("ab", '{"output": [{"content": [{"text": "ab"}]}]}'),
    "no object": ("ab", '"ab"'),
    "large": ("x" * answers.LARGEST, chat("x" * answers.LARGEST)),
    "a key twice": ("b", '{"choices": [{"message": {"content": "a"}}], "x": 1e40, "choices": 7}'),
}


@pytest.mark.parametrize("name", [*ONCE, *TWICE])
def test_a_text_is_read_as_it_was_settled(database: Database, name: str) -> None:
    """It stands in its column wherever the database would read anything else out of the response, or nothing."""
    answer, response = (ONCE | TWICE)[name]
    job = answered(database, answer, response)
    assert read(database, job) == [answer] * 3
    assert stored(database, job) == (("", True) if name in ONCE else (answer, False))


def test_a_text_is_set_apart_before_its_response_is_encrypted(database: Database) -> None:
    """And with a key from the first row on it has a column of its own."""
    job = answered(database, "a broth", chat("a broth"))
    keyed = Database(Settings(database_url=database.settings.database_url, payload_key=KEY))
    try:
        assert read(keyed, job) == ["a broth"] * 3
        for column in payloads.SEALED[1:3]:
            assert keyed.write(lambda conn, column=column: payloads.reseal(conn, column, None))[1] == 1  # type: ignore[misc]
        later = answered(keyed, "a stock", chat("a stock"))
        for one, answer in ((job, "a broth"), (later, "a stock")):
            found, in_response = stored(keyed, one)
            assert found.startswith("sealed:1:")
            assert not in_response
            assert read(keyed, one)[1:] == [answer] * 2
    finally:
        keyed.close()


def test_a_database_of_the_version_before_stores_both_for_a_day(empty_database_url: str) -> None:
    """Its rows stay as they are; readers of that version find the texts of new ones where they look."""
    engine = create_engine(empty_database_url)
    with engine.begin() as conn:
        upgrade_to(conn, BEFORE)
        conn.execute(
            text(f"""
            INSERT INTO jobs (id, endpoint, model, status, fence, calls, attempts, max_attempts, on_ambiguous,
                created_at, due_at, started_at, finished_at, expires_at)
            VALUES ('job_old', '/v1/chat/completions', 'm', 'completed', 1, 1, 1, 5, 'retry',
                {TIME}, {TIME}, {TIME}, {TIME}, {TIME})
            """)
        )
        conn.execute(
            text("INSERT INTO results (job_id, response, text) VALUES ('job_old', :response, 'a broth')"),
            {"response": chat("a broth")},
        )
    engine.dispose()
    schema.upgrade(empty_database_url)
    database = Database(Settings(database_url=empty_database_url))
    try:
        assert read(database, "job_old") == ["a broth"] * 3
        assert stored(database, "job_old") == ("a broth", False)
        first = answered(database, "new", chat("new"))
        assert (stored(database, first), read(database, first)) == (("new", False), ["new"] * 3)
        database.write(lambda conn: bookmarks.put(conn, answers.BOOKMARK, {"until": 1_700_000_000}))
        second = answered(database, "newer", chat("newer"))
        assert (stored(database, second), read(database, second)) == (("", True), ["newer"] * 3)
    finally:
        database.close()


def test_a_slice_of_both_kinds(database: Database) -> None:
    """Settled in one statement."""
    both = claimed(database, *submitted(database, request("a"), request("b")))
    settled(
        database,
        settlement(both[0], text="a", response=chat("a")),
        settlement(both[1], text="b", response=chat("b", user="\0")),
    )
    assert [stored(database, job.id) for job in both] == [("", True), ("b", False)]
