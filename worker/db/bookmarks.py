"""Bookmarks: where a long walk goes on after it was broken off. One row a walk, written with what it has found."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text

from api_schemas import jsontext


def read(conn: Connection, name: str) -> dict[str, Any] | None:
    """The place of the walk called `name`; None when it is to begin anew."""
    found = conn.execute(text("SELECT place FROM bookmarks WHERE name = :name"), {"name": name}).scalar()
    place = None if found is None else jsontext.loads(found)
    return place if isinstance(place, dict) else None


def put(conn: Connection, name: str, place: dict[str, Any] | None) -> None:
    """Remember a place, or forget it. The caller commits, together with what was found up to there."""
    if place is None:
        conn.execute(text("DELETE FROM bookmarks WHERE name = :name"), {"name": name})
        return
    conn.execute(
        text("""
        INSERT INTO bookmarks (name, place) VALUES (:name, :place)
        ON CONFLICT (name) DO UPDATE SET place = excluded.place
        """),
        {"name": name, "place": jsontext.dumps(place).decode()},
    )
