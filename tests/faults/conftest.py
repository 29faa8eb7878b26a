"""The stage of the fault tests; every row of the matrix sets one (see `tests.rig.stage`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.rig.hookd import HookReceiver, read_journal
from tests.rig.receipts import unverified
from tests.rig.stage import Proxied, SetStage, Stage
from tests.rig.valkey import ValkeyServer


@pytest.fixture
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SetStage]:
    """Sets a stage: `stage("postgres", workers=2, proxies=("redis",), lease_seconds=2)`."""
    receivers: list[HookReceiver] = []
    with contextlib.ExitStack() as stack:

        def set_stage(
            database: Literal["postgres", "sqlite"] = "postgres",
            *,
            workers: int = 2,
            proxies: Sequence[Proxied] = (),
            valkey: ValkeyServer | None = None,
            redis_url: str | None = None,
            database_url: str | None = None,
            simulator: Mapping[str, Any] | None = None,
            **settings: object,
        ) -> Stage:
            on = Stage(
                database_url or request.getfixturevalue(f"{database}_url"),
                logs=tmp_path,
                valkey=valkey,
                redis_url=redis_url,
                proxies=proxies,
                simulator=simulator,
                settings=settings,
            )
            stack.callback(on.close)
            receivers.append(on.hooks)
            on.start(workers)
            return on

        yield set_stage
    # Whatever the test was about: every delivery that arrived is verified, from the journals, by both libraries.
    for hooks in receivers:
        deliveries = read_journal(hooks.journal) if hooks.journal is not None and hooks.journal.exists() else []
        assert list(unverified(deliveries, hooks.secrets)) == []
