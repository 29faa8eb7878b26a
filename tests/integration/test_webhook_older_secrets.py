"""An endpoint's secret is rotated again and again within a day: each replaced one signs to the end of its own day."""

from __future__ import annotations

import pytest

from worker.base.errors import NotAllowed
from worker.db.connect import Database
from worker.db.webhooks import endpoints


def rotate(database: Database, secret: str, overlap: float = 3_600) -> bool:
    return database.write(lambda conn: endpoints.rotate(conn, "we_1", "t", secret, overlap))


def signing(database: Database) -> tuple[str, ...]:
    route = database.read(lambda conn: endpoints.routes(conn, ["we_1"]))["we_1"]
    return (route.secret, *route.previous_secrets)


def test_every_secret_of_the_window_signs(database: Database) -> None:
    """Until there are too many for a header; a new storage key seals them all; without an overlap none stays."""
    database.write(
        lambda conn: endpoints.add(
            conn, id="we_1", tenant="t", url="https://x/", description="", events=[], secret="s0"
        )
    )
    for number in (1, 2, 3):
        assert rotate(database, f"s{number}")
    assert signing(database) == ("s3", "s2", "s1", "s0")
    assert database.write(lambda conn: endpoints.seal_again(conn, str.upper)) == 1
    assert signing(database) == ("S3", "S2", "S1", "S0")
    for number in range(4, endpoints.MOST_SECRETS):
        assert rotate(database, f"s{number}")
    with pytest.raises(NotAllowed, match="16 secrets"):
        rotate(database, "one too many")
    assert rotate(database, "new", overlap=0)
    assert signing(database) == ("new",)
