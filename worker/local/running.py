"""What `stockpot up` runs in a home, for commands beside it: a note in a file while it runs.

The file names the process, so that one that a killed `up` has left is ignored.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from api_schemas import jsontext
from worker.base.settings import Settings

#: What the simulator gets for a key; it takes any.
SIMULATED_KEY = "simulated"
_FILE = "up.json"


@dataclass(frozen=True, slots=True)
class Running:
    """A `stockpot up` that runs; `simulator` is the URL of its simulated upstream, None: it calls the real one."""

    simulator: str | None


@contextlib.contextmanager
def noted(home: Path, simulator: str | None) -> Iterator[None]:
    """Leave the note while the block runs."""
    path = home / _FILE
    text = jsontext.dumps({"pid": os.getpid(), "began": _began(os.getpid()), "simulator": simulator})
    with contextlib.suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if path.read_bytes() == text:  # and not that of another
                path.unlink()


def running(home: Path) -> Running | None:
    """The `stockpot up` of a home; None when none runs."""
    try:
        note = jsontext.loads((home / _FILE).read_bytes())
        pid, began, simulator = int(note["pid"]), note["began"], note["simulator"]
        os.kill(pid, 0)
    except PermissionError:  # it runs, as another user
        return Running(simulator)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Running(simulator) if _began(pid) == began else None  # another process may have its number by now


def beside(settings: Settings) -> Settings:
    """The settings of commands beside a `stockpot up` of their home: with its simulator, where it has one."""
    found = running(settings.home)
    if found is None or found.simulator is None:
        return settings
    return settings.model_copy(update={"upstream_url": found.simulator, "api_key": SecretStr(SIMULATED_KEY)})


def _began(pid: int) -> str | None:
    """When a process began, as the kernel counts it; None where that is not shown."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
