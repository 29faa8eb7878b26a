"""The key of webhook secrets, compared over all who share a database: its short name is kept there.

A web app and a worker with two home directories would each make a `secret.key`, and what one seals the other cannot
open: its webhooks would wait for ever without a word.
"""

from __future__ import annotations

from sqlalchemy import Connection

from worker.base.errors import SettingsError
from worker.base.settings import Settings
from worker.db import bookmarks
from worker.webhooks.secrets import KEY_FILE, Vault

_NAME = "secret_key"


def differs(conn: Connection, vault: Vault) -> str | None:
    """Why this vault's key is not the database's, in one sentence; None when it is, or the database knows none yet."""
    kept = bookmarks.read(conn, _NAME)
    if kept is None or kept["id"] in vault.key_ids:
        return None
    return (
        f"webhook secrets in this database are sealed with the key {kept['id']}, and here is {vault.key_ids[0]}:"
        " set the same STOCKPOT_SECRET_KEY everywhere, or copy secret.key from the home where they were made"
    )


def agree(conn: Connection, settings: Settings) -> str | None:
    """Compare our key, and keep its name in a database that knows none; why it differs, or None. Makes no key.

    Raises:
        SettingsError: STOCKPOT_WEBHOOK_SECRET is none, or the key's file cannot be read.
    """
    vault = Vault.of(settings)
    if bookmarks.read(conn, _NAME) is None and (settings.secret_keys or (settings.home / KEY_FILE).exists()):
        remember(conn, vault)
    return differs(conn, vault)


def remember(conn: Connection, vault: Vault) -> None:
    """Keep the name of the key that seals now.

    Raises:
        SettingsError: secrets of this database are sealed with a key that is not here.
    """
    why = differs(conn, vault)
    if why is not None:
        raise SettingsError(f"STOCKPOT_SECRET_KEY: {why}")
    kept = bookmarks.read(conn, _NAME)
    if kept is None or kept["id"] != vault.key_ids[0]:
        bookmarks.put(conn, _NAME, {"id": vault.key_ids[0]})
