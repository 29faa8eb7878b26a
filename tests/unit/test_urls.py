"""URLs of settings: no credential of any of them appears in a refusal, a repr or a name, however badly it is written."""

from __future__ import annotations

import itertools
import traceback

import pytest
from pydantic import ValidationError

from worker.base import urls
from worker.base.errors import SettingsError
from worker.base.settings import Settings, load

CANARY = "canary-5f3a"
#: What an unencoded password may hold.
MARKS = ["", "@", "/", "?", "#", ":", "%", "[", " ", "@/", "/@", "?@", "#/@", "\\", "%zz", "\n"]
FORMS = {
    "database_url": "postgresql://user:{}@db.example:5432/name?sslmode=require",
    "redis_url": "rediss://user:{}@redis.example:6379/1",
    "broker_url": "redis://:{}@redis.example:6379/2",
    "upstream_url": "https://user:{}@api.example/v1",
}


@pytest.mark.parametrize(("setting", "mark"), list(itertools.product(FORMS, MARKS)))
def test_no_refusal_and_no_repr_shows_a_credential(setting: str, mark: str) -> None:
    """Either the URL is taken whole, or it is refused in words of our own."""
    url = FORMS[setting].format(f"{CANARY}{mark}{CANARY}")
    shown = ""
    try:
        settings = load(**{setting: url})
        shown = repr(settings) + str(settings)
    except SettingsError as error:
        shown = "".join(traceback.format_exception(error))
        assert f"STOCKPOT_{setting.upper()}" in shown
    try:
        Settings.model_validate({setting: url})
    except ValidationError as error:
        shown += str(error) + repr(error)
    assert CANARY not in shown
    assert CANARY not in urls.without_credentials(url)


@pytest.mark.parametrize("setting", ["database_url", "redis_url", "broker_url"])
def test_an_encoded_password_may_hold_anything(setting: str) -> None:
    """As it is: nothing is rewritten."""
    url = FORMS[setting].format("p%40%2F%3F%23%25")
    assert getattr(load(**{setting: url}), setting) == url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@h:1/d?sslmode=require&password=p", "postgresql://h:1/d?sslmode=require&password=***"),
        ("postgresql://h/d?sslpassword=p&sslkey=/k", "postgresql://h/d?sslpassword=***&sslkey=/k"),
        ("unix://u:p@/run/redis.sock?db=1&password=p", "unix:///run/redis.sock?db=1&password=***"),
        ("sqlite:////srv/a@b.db", "sqlite:////srv/a@b.db"),
        ("nonsense", "(no URL)"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    """Enough to know which server is meant."""
    assert urls.without_credentials(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "https://u:p@h/v1",
        "https://h/v1?key=x",
        "https://h/v1?v=1&Code=x",
        "https://h/v1#x",
        "https:///v1",
        "https://h:port/v1",
        "h/v1",
    ],
)
def test_an_upstream_is_a_base_url_and_nothing_else(url: str) -> None:
    """What stands behind it would be cut off or doubled; a user in it would stand in every route's name."""
    with pytest.raises(SettingsError, match="STOCKPOT_UPSTREAM_URL"):
        load(upstream_url=url)
