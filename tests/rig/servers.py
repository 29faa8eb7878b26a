"""The real servers that tests run against."""

from __future__ import annotations

from tests.rig.postgres import PostgresServer
from tests.rig.valkey import ValkeyServer

__all__ = ["PostgresServer", "ValkeyServer"]
