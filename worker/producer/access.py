"""`pot.access`: who may use the dashboard, and the log of who pressed what."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum

from worker.db.connect import Database
from worker.db.dashboard import actions, sessions
from worker.db.dashboard.actions import Action
from worker.db.keys.records import Key
from worker.producer.keys import Keys

__all__ = ["SESSION", "Access", "Action", "Role", "Viewer"]

#: A day's work; after it a browser signs in again.
SESSION = timedelta(hours=12)


class Role(IntEnum):
    """What a viewer may; each may what those before it may."""

    READ = 1  # sees numbers and states, and no prompts or answers
    OPERATE = 2  # sees and changes what is its tenant's
    ADMIN = 3  # all tenants, and what is no tenant's: routes, workers, keys

    @property
    def title(self) -> str:
        """The role's name for people."""
        return {1: "read only", 2: "operator", 3: "admin"}[self.value]


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks. `tenant` None: of all tenants. `models` None: any; `limited`: its key's calls are counted."""

    role: Role
    tenant: str | None
    name: str
    key_id: str | None = None
    models: frozenset[str] | None = None
    limited: bool = False

    @property
    def sees_prompts(self) -> bool:
        """Whether prompts and answers are shown."""
        return self.role >= Role.OPERATE

    @classmethod
    def of(cls, key: Key) -> Viewer:
        """The viewer with a key: admin, read-only, or (neither) an operator of its tenant."""
        role = Role.ADMIN if key.admin else Role.READ if key.read_only else Role.OPERATE
        models = None if key.models is None else frozenset(key.models)
        tenant = None if key.admin else key.tenant
        return cls(role, tenant, key.name or f"…{key.hint}", key.id, models, key.limited)


#: Who looks where there are no keys yet, on this machine: its developer.
DEVELOPER = Viewer(Role.ADMIN, None, "this machine")


class Access:
    """Sessions and the log, in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = Keys(database)

    def new_token(self) -> str:
        """What a browser's cookie holds."""
        return secrets.token_urlsafe(32)

    def csrf(self, token: str) -> str:
        """What forms carry: it follows from the cookie, which no other site can read."""
        return hmac.new(token.encode(), b"csrf", hashlib.sha256).hexdigest()

    def open(self) -> bool:
        """Whether no sign-in is needed: there are no keys."""
        return not self._keys.exist()

    def sign_in(self, secret: str) -> tuple[str, Viewer] | None:
        """Begin a session with a key: its token, and who it is. None when no such key is in force."""
        key = self._keys.find(secret)
        if key is None:
            return None
        token = self.new_token()
        seconds = SESSION.total_seconds()
        self._database.write(lambda conn: sessions.begin(conn, _hash(token), key.id, seconds=seconds))
        self._keys.touch(key)
        return token, Viewer.of(key)

    def viewer(self, token: str) -> Viewer | None:
        """Who a session's token belongs to, while its key is in force."""
        key = self._database.read(lambda conn: sessions.find(conn, _hash(token)))
        return None if key is None else Viewer.of(key)

    def sign_out(self, token: str) -> None:
        """End a session."""
        self._database.write(lambda conn: sessions.end(conn, _hash(token)))

    def begin(self, viewer: Viewer, action: str, target: str, tenant: str | None) -> str:
        """Write down what a viewer is about to do; the id for `end`."""
        what = {
            "key_id": viewer.key_id,
            "who": viewer.name,
            "role": viewer.role.title,
            "tenant": tenant,
            "action": action,
            "target": target[:500],
        }
        return self._database.write(lambda conn: actions.begin(conn, **what))

    def end(self, action: str, outcome: str) -> None:
        """Write down what came of it."""
        self._database.write(lambda conn: actions.end(conn, action, outcome[:500]))

    def actions(self, *, tenant: str | None = None, before: str | None = None, limit: int = 100) -> list[Action]:
        """Who pressed what, newest first."""
        return self._database.read(lambda conn: actions.listed(conn, tenant=tenant, before=before, limit=limit))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
