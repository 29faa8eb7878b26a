"""Databases of earlier versions."""

from __future__ import annotations

import alembic.command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from worker.db import schema


def upgrade_to(conn: Connection, revision: str) -> None:
    """Bring a database to a revision before the newest, on this connection."""
    config = schema._config()
    config.attributes["connection"] = conn
    alembic.command.upgrade(config, revision)


def before_newest() -> str:
    """The revision of the version before."""
    script = ScriptDirectory.from_config(schema._config())
    newest = script.get_revision("head")
    assert newest is not None
    assert isinstance(newest.down_revision, str)
    return newest.down_revision
