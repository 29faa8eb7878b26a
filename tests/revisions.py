"""Databases of earlier versions."""

from __future__ import annotations

import alembic.command
from sqlalchemy import Connection

from worker.db import schema


def upgrade_to(conn: Connection, revision: str) -> None:
    """Bring a database to a revision before the newest, on this connection."""
    config = schema._config()
    config.attributes["connection"] = conn
    alembic.command.upgrade(config, revision)
