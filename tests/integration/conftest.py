"""What the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.factories import opened
from worker.db.connect import Database


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh database of each kind, with the tables."""
    with opened(database_url) as database:
        yield database
