"""The database's URL as the driver takes it. `base.urls` has checked its form; what a database needs is checked here.

postgresql://user@host/name?sslmode=require     and every other parameter that libpq knows
postgresql://user@one:5432,two:5433/name        the first that answers
sqlite:///relative.db, sqlite:////absolute.db   a file: memory is no place for what several processes share
"""

from __future__ import annotations

import re

from sqlalchemy import URL, make_url

from worker.base import urls
from worker.base.errors import SettingsError
from worker.base.settings import Settings

_NAME = "STOCKPOT_DATABASE_URL"
_POSTGRES = re.compile(r"^postgres(?:ql)?(?:\+psycopg)?://(?P<rest>.*)$", re.DOTALL | re.IGNORECASE)
_HOSTS = re.compile(r"^(?P<user>(?:[^/?]*@)?)(?P<hosts>[^/?@]*,[^/?@]*)(?P<rest>[/?].*)?$", re.DOTALL)
#: What other tools write into a URL, and how it is written here.
_ELSEWHERE = {"schema": "set STOCKPOT_SCHEMA instead", "pgbouncer": "leave it out: a pooler needs no setting here"}


def database_url(settings: Settings) -> URL:
    """The URL of the database; of the home's SQLite file when none is set.

    Raises:
        SettingsError: it asks for what Stockpot or libpq does not know.
    """
    given = settings.database_url.strip()
    if not given:
        return URL.create("sqlite", database=str(settings.home / "stockpot.db"))
    found = _POSTGRES.match(given)
    if found is None:
        return _checked_sqlite(make_url(given))
    return _checked_postgres(make_url(_one_host_each(found["rest"])))


def display_url(settings: Settings) -> str:
    """The URL for people and logs."""
    return urls.without_credentials(database_url(settings).render_as_string(hide_password=False))


def _one_host_each(rest: str) -> str:
    hosts = _HOSTS.match(rest)
    if hosts is None:
        return f"postgresql+psycopg://{rest}"
    tail = hosts["rest"] or "/"
    named = "&".join(f"host={host}" for host in hosts["hosts"].split(","))
    return f"postgresql+psycopg://{hosts['user']}{tail}{'&' if '?' in tail else '?'}{named}"


def _checked_postgres(url: URL) -> URL:
    try:
        from psycopg.pq import Conninfo  # psycopg is optional
    except ImportError as error:
        raise SettingsError(f"{_NAME}: {error.name} is missing; pip install 'stockpot[postgres]'") from None
    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    for key in url.query:
        if key not in known:
            advice = _ELSEWHERE.get(key, "libpq knows no such parameter")
            raise SettingsError(f"{_NAME}: ?{key}=… is not understood; {advice}")
    return url


def _checked_sqlite(url: URL) -> URL:
    if url.database in {None, "", ":memory:"} or "mode=memory" in str(url):
        raise SettingsError(f"{_NAME}: a database in memory is one process's own; name a file: sqlite:///stockpot.db")
    for key in url.query:
        raise SettingsError(f"{_NAME}: ?{key}=… is not understood; a SQLite file takes no parameters")
    return url
