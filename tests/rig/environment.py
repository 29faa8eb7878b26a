"""The environment of child processes: built from nothing, so that no key or setting of the developer's leaks in."""

from __future__ import annotations

import os
from pathlib import Path

#: The API key that children get: a canary, so that the secrets test can find it where it must not be.
TEST_API_KEY = "sk-canary-api-key-5f3a9c"
#: What a child may inherit: where programs are, and which language and time zone.
_INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "COVERAGE_PROCESS_START")
#: Variables of ours, of the provider's and of Celery's, which reads its own from the environment and lets them win.
_FOREIGN = ("STOCKPOT_", "AIMLAPI_", "CELERY_")

#: With `TESTS_ENCRYPTED=1` every test that does not speak of this setting has payloads encrypted (`make test-encrypted`).
TEST_PAYLOAD_KEY = "a payload key of the tests that is long enough"
ENCRYPTED = os.environ.get("TESTS_ENCRYPTED") == "1"
PAYLOAD_KEY = "STOCKPOT_PAYLOAD_KEY"

#: With `TESTS_FILE_STORE=gs://bucket/path` every test that does not speak of this setting keeps its files in that storage.
FILES_IN = os.environ.get("TESTS_FILE_STORE")
FILE_STORE = "STOCKPOT_FILE_STORE"
#: What the libraries of these storages read: an emulator's address, and credentials.
_OF_STORAGE = ("AWS_", "FSSPEC_", "GCSFS_", "GOOGLE_", "STORAGE_EMULATOR_HOST")

#: Every duration small, so that a test of recovery takes seconds: what it proves depends on none of these settings.
QUICK: dict[str, str] = {
    "STOCKPOT_LEASE_SECONDS": "2",
    "STOCKPOT_SWEEP_SECONDS": "0.2",
    "STOCKPOT_DRAIN_SECONDS": "5",
    "STOCKPOT_CONCURRENCY": "4",
    "STOCKPOT_CONNECT_TIMEOUT": "5",
    "STOCKPOT_FIRST_EVENT_TIMEOUT": "30",
    "STOCKPOT_IDLE_TIMEOUT": "30",
    "STOCKPOT_TOTAL_TIMEOUT": "120",
    "STOCKPOT_RETRY_BASE_SECONDS": "0.05",
    "STOCKPOT_RETRY_MAX_SECONDS": "0.5",
    # 5 s, 5 min, 30 min, … become 10 ms, 0.6 s, 3.6 s, …
    "STOCKPOT_WEBHOOK_RETRY_SCALE": "0.002",
    "STOCKPOT_WEBHOOK_ALLOW_PRIVATE": "127.0.0.0/8",
    # A free one: tests run side by side, and beside those of other checkouts.
    "STOCKPOT_GATEWAY_PORT": "0",
    "STOCKPOT_LOG_FORMAT": "json",
}


def scrub() -> None:
    """Remove ours, the provider's and Celery's variables from this process: tests call no paid API by accident."""
    for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
        del os.environ[name]
    if ENCRYPTED:
        os.environ[PAYLOAD_KEY] = TEST_PAYLOAD_KEY
    if FILES_IN:
        os.environ[FILE_STORE] = FILES_IN


def interpreter() -> dict[str, str]:
    """What a child's interpreter itself reads, and where its programs are."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return inherited | {"PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": "0"}


def environment(
    home: Path,
    *,
    database_url: str | None = None,
    redis_url: str | None = None,
    upstream_url: str | None = None,
    **settings: object,
) -> dict[str, str]:
    """The whole environment of a child process.

    Args:
        home: `STOCKPOT_HOME`, and `HOME` too.
        database_url: None leaves it out (SQLite in the home).
        redis_url: None leaves it out (embedded Valkey in the home).
        upstream_url: None leaves it out, which would be the real provider: give one.
        settings: `lease_seconds=2` sets `STOCKPOT_LEASE_SECONDS`; names in capitals are taken as they are
            (`AIMLAPI_API_KEY=…`); None removes a setting that `QUICK` has.
    """
    env = interpreter() | {"HOME": str(home), "STOCKPOT_HOME": str(home)}
    env |= QUICK | {"STOCKPOT_API_KEY": TEST_API_KEY}
    if ENCRYPTED and PAYLOAD_KEY in os.environ:
        env[PAYLOAD_KEY] = os.environ[PAYLOAD_KEY]
    if FILES_IN:
        env |= {name: value for name, value in os.environ.items() if name.startswith((FILE_STORE, *_OF_STORAGE))}
    given = {"database_url": database_url, "redis_url": redis_url, "upstream_url": upstream_url}
    for name, value in ({key: url for key, url in given.items() if url is not None} | settings).items():
        variable = name if name.isupper() else f"STOCKPOT_{name.upper()}"
        if value is None:
            env.pop(variable, None)
        else:
            env[variable] = str(value)
    return env
