"""Two homes and one database: the key of webhook secrets is compared where it would go wrong without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.base.errors import SettingsError
from worker.base.settings import Settings
from worker.db.connect import Database
from worker.webhooks import admin, shared_key
from worker.webhooks.secrets import Vault


def settings_of(database: Database, home: Path, key: str | None = None) -> Settings:
    """Another machine's settings for the same database."""
    return Settings(home=home, database_url=database.settings.database_url, secret_key=key)


def test_a_home_with_another_key_is_refused_before_it_seals(database: Database, tmp_path: Path) -> None:
    """The first that adds an endpoint decides; whoever has the key, in its list or its file, agrees."""
    web, worker = settings_of(database, tmp_path / "web"), settings_of(database, tmp_path / "worker")
    assert database.write(lambda conn: shared_key.agree(conn, worker)) is None
    assert not (tmp_path / "worker" / "secret.key").exists(), "comparing makes no key"
    database.write(lambda conn: admin.add_endpoint(conn, Vault.of(web), "https://hooks.example/a"))
    why = database.write(lambda conn: shared_key.agree(conn, worker))
    assert why is not None
    assert "STOCKPOT_SECRET_KEY" in why
    with pytest.raises(SettingsError, match="STOCKPOT_SECRET_KEY"):
        database.write(lambda conn: admin.add_endpoint(conn, Vault.of(worker), "https://hooks.example/b"))
    assert len(database.read(admin.list_endpoints)) == 1
    (tmp_path / "worker" / "secret.key").write_bytes((tmp_path / "web" / "secret.key").read_bytes())
    assert database.write(lambda conn: shared_key.agree(conn, worker)) is None


def test_a_key_that_is_replaced_stays_known(database: Database, tmp_path: Path) -> None:
    """The new one in front, the old one behind it; then the old one may go."""
    old, new = "an old key that is long enough", "a new key that is long enough"
    first, both, last = (settings_of(database, tmp_path, key) for key in (old, f"{new},{old}", new))
    for settings in (first, both, last):
        database.write(lambda conn, settings=settings: shared_key.remember(conn, Vault.of(settings)))  # type: ignore[misc]
    assert database.write(lambda conn: shared_key.agree(conn, first)) is not None
