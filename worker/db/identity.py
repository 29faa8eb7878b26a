"""Who a database is: a random name that it got with its tables, the same for all who use it, under whatever URL.

Two projects that share a Redis distinguish their messages by it.
"""

from __future__ import annotations

import secrets

from sqlalchemy import Connection, text

from api_schemas import jsontext
from worker.db import bookmarks

#: Under which the name is kept among the bookmarks.
NAME = "database"


def ensure(conn: Connection) -> str:
    """The database's name, given to it now if it has none. Two who do so at once agree."""
    known = read(conn)
    if known is not None:
        return known
    conn.execute(
        text("INSERT INTO bookmarks (name, place) VALUES (:name, :place) ON CONFLICT (name) DO NOTHING"),
        {"name": NAME, "place": jsontext.dumps({"id": secrets.token_hex(8)}).decode()},
    )
    return read(conn) or ""


def read(conn: Connection) -> str | None:
    """The database's name; None when no worker has used it yet."""
    place = bookmarks.read(conn, NAME)
    return None if place is None else str(place["id"])
