"""No part of the credentials of a URL that cannot be used shows in what the commands say of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.rig import canary, procs
from tests.rig.witness import Witness

pytestmark = pytest.mark.fault

#: One for each setting. What stands behind an encoded `@` or `/` is another part, which must not show either.
TOKENS = {
    "database": "canary-db-51",
    "behind the database's @": "canary-at-52",
    "behind the database's /": "canary-slash-53",
    "redis": "canary-redis-54",
    "upstream": "canary-upstream-55",
}
#: What people run first when something is wrong.
COMMANDS = (["doctor"], ["submit", "-m", "m@sim:ok", "hi"])


def _say(env: Mapping[str, str], cwd: Path) -> list[tuple[str, bytes]]:
    """What the commands write, whatever they come to."""
    stockpot = Path(sys.executable).with_name("stockpot")
    said = []
    for command in COMMANDS:
        done = procs.run([stockpot, *command], env=env, cwd=cwd)
        assert "Traceback" not in done.stderr, done.stderr
        said.append((" ".join(command), (done.stdout + done.stderr).encode()))
    return said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://me:canary-db-51@canary-at-52/canary-slash-53@127.0.0.1:1/x"),
        ("DATABASE_URL", "mysql://me:canary-db-51@127.0.0.1/x"),
        ("REDIS_URL", "redis://:canary-redis-54/canary-at-52@127.0.0.1:1/0"),
        ("REDIS_URL", "http://:canary-redis-54@127.0.0.1:1/0"),
        ("BROKER_URL", "amqp://me:canary-redis-54@canary-at-52@127.0.0.1:1//"),
        ("UPSTREAM_URL", "http://me:canary-upstream-55@canary-at-52/v1@127.0.0.1:1/v1"),
        ("UPSTREAM_URL", "https://me:canary-upstream-55@127.0.0.1:x/v1"),
        ("UPSTREAM_URL", "https://me:canary-upstream-55@127.0.0.1/v1"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(tmp_path: Path, name: str, value: str) -> None:
    """Nor with any part of it; what is not encoded is told to be."""
    env = {"PATH": "/usr/bin", "HOME": str(tmp_path), "STOCKPOT_HOME": str(tmp_path), f"STOCKPOT_{name}": value}
    with Witness("the setting was refused, or could not be used") as witness:
        said = _say(env, tmp_path) if witness.faults_on else []
        witness.saw(any(f"STOCKPOT_{name}".encode() in content for _, content in said))
    assert canary.scan(said, TOKENS) == []
