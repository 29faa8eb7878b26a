"""Ctrl-C in the middle of what a library does: the command ends, without the library's traceback."""

from __future__ import annotations

import logging
from contextlib import nullcontext as nothing

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.pool import QueuePool

import worker.cli  # noqa: F401 -- a command's process has imported it
from worker.cli.interrupts import POOL


@pytest.mark.parametrize(("broken", "logged"), [(KeyboardInterrupt, 0), (OSError, 1)])
def test_the_return_of_a_connection_may_be_interrupted(
    broken: type[BaseException], logged: int, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_engine("sqlite://", poolclass=QueuePool)

    @event.listens_for(engine, "reset")
    def reset(*_: object) -> None:
        raise broken

    connection = engine.connect()
    with caplog.at_level(logging.ERROR), pytest.raises(broken) if broken is KeyboardInterrupt else nothing():
        connection.close()
    assert [record.name for record in caplog.records] == [POOL] * logged
    engine.dispose()
