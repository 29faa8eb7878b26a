"""What the verbs of every object stand on: one tenant, and the connections that all tenants of the process share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection

from worker.base.settings import Settings
from worker.db.connect import Database
from worker.producer.connections import Connections

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scope:
    """One tenant's way to everything."""

    connections: Connections
    tenant: str

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.connections.settings

    @property
    def database(self) -> Database:
        """The database, once it is known to be of this version. Raises Unreachable."""
        self.connections.prepare()
        return self.connections.database

    def read(self, query: Callable[[Connection], T]) -> T:
        """Run a query in a read-only transaction. Raises Unreachable."""
        return self.database.read(query)

    def write(self, verb: Callable[[Connection], T]) -> T:
        """Run a verb in a transaction and commit it. Raises Unreachable."""
        return self.database.write(verb)

    def announce(self, verb: Callable[[Connection], T]) -> T:
        """As `write`, for what idle workers shall find at once and no doorbell announces."""
        done = self.database.write(verb)
        self.wake()
        return done

    def wake(self) -> None:
        """Let idle workers look at once, within the publish budget; errors are ignored."""
        from worker.producer.cancellation import wake_workers

        wake_workers(self.settings)
