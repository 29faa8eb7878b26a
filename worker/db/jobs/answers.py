"""An answer's text is stored once: in the response, where it can be read out of it, and in a column of its own elsewhere.

Most answers are those of a chat with one choice, whose text is the larger part of the response. The database compares,
when it stores one, what it reads out of the response with the text, and leaves the text out where they are the same:
what is read later is read by the expression that was compared. An encrypted response has none to be read.

Older versions read the text from its column: after an upgrade both are stored for a day (revision 0011).
"""

from __future__ import annotations

from worker.db.clock import Speaker, is_postgres, now_sql

#: The bookmark that holds until when texts are stored twice (Unix seconds); a new database has none.
BOOKMARK = "answers_once"
#: Larger responses are not parsed by the database: their text stands in its column.
LARGEST = 65_536

_READ = {
    "postgresql": "json_extract_path_text({response}, 'choices', '0', 'message', 'content')",
    "sqlite": "json_extract({response}, '$.choices[0].message.content')",
}


def text_sql(dialect: str, table: str) -> str:
    """The text of a row of `results`, which is called `table`."""
    read = _READ[dialect].format(response=f"{table}.response")
    return f"CASE WHEN {table}.text_in_response THEN {read} ELSE {table}.text END"


def once_sql(conn: Speaker, row: str) -> str:
    """Whether the text of a settlement is left out: `row` is what stands before its `readable`, `response`, `answer`."""
    postgres = is_postgres(conn)
    response = f"CAST({row}response AS json)" if postgres else f"{row}response"
    read = _READ[conn.dialect.name].format(response=response)
    if postgres:
        until, now = "CAST(CAST(place AS json) ->> 'until' AS float8)", f"EXTRACT(EPOCH FROM {now_sql(conn)})"
    else:
        until, now = "json_extract(place, '$.until')", "(julianday('now') - 2440587.5) * 86400.0"
        read = f"CASE WHEN json_valid({response}) THEN {read} END"
    return f"""CASE WHEN {row}readable = 1 AND NOT EXISTS (
        SELECT 1 FROM bookmarks WHERE name = '{BOOKMARK}' AND {until} > {now}
    ) THEN {read} = {row}answer END"""


def readable(response: str | None) -> bool:
    """Whether PostgreSQL can read strings out of a response: it refuses those with a NUL or half a surrogate pair."""
    if response is None or len(response) > LARGEST:
        return False
    return not any(escape in response for escape in ("\\u0000", "\\ud", "\\uD"))
