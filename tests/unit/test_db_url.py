"""STOCKPOT_DATABASE_URL: which URLs are understood, and what the others are refused for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from worker.base.errors import SettingsError
from worker.base.settings import Settings
from worker.db.connect import connect
from worker.db.url import database_url, display_url


def libpq(url: str) -> Mapping[str, object]:
    """What the driver would be given."""
    engine = connect(Settings(database_url=url))
    _, options = engine.dialect.create_connect_args(engine.url)
    return options


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("postgresql://h/d?sslmode=require", "postgresql+psycopg://h/d?sslmode=require"),
        ("postgresql+psycopg://h/d", "postgresql+psycopg://h/d"),
        ("sqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
    ],
)
def test_urls_are_spelled_for_the_driver(url: str, wanted: str) -> None:
    assert database_url(Settings(database_url=url)).render_as_string(hide_password=False) == wanted


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///x.db?mode=ro", "mode=… is not understood"),
        ("postgresql://h/d?pgbouncer=true", "leave it out"),
        ("postgresql://h/d?schema=public", "STOCKPOT_SCHEMA"),
    ],
)
def test_other_urls_are_refused_with_what_to_write_instead(url: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        database_url(Settings(database_url=url))


def test_several_hosts_are_tried_in_turn() -> None:
    """As libpq writes them."""
    options = libpq("postgresql://u@one:5432,two:5433/d?target_session_attrs=read-write")
    assert (options["host"], options["port"]) == ("one,two", "5432,5433")
    assert (options["user"], options["dbname"], options["target_session_attrs"]) == ("u", "d", "read-write")


@pytest.mark.parametrize("folder", ["what?", "x%41", "a#b", "with space"])
def test_a_home_of_any_name_has_its_database_in_it(tmp_path: Path, folder: str) -> None:
    """A name is no URL: `?` begins no parameters there, `%41` is no `A`."""
    settings = Settings(home=tmp_path / folder)
    engine = connect(settings)
    with engine.connect():
        assert (tmp_path / folder / "stockpot.db").is_file()
    engine.dispose()


def test_no_credential_is_displayed() -> None:
    shown = display_url(Settings(database_url="postgresql://u:secret@one,two/d"))
    assert "secret" not in shown
    assert "one" in shown
