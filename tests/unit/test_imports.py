"""What importing the producer loads: a web application starts with it, and pays for nothing that it does not use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: What must not be there after `from stockpot import Stockpot, AsyncStockpot`: terminals, servers, the upstream's client, bulk work.
LIBRARIES = {"rich", "click", "structlog", "aiohttp", "httpx", "celery", "kombu", "redis", "alembic", "cryptography"} | {
    "prometheus_client", "standardwebhooks", "starlette", "uvicorn", "jinja2"
}  # fmt: skip
ROOMS = {
    "batches",
    "cli",
    "dashboard",
    "engine",
    "gateway",
    "job",
    "limits",
    "local",
    "provider",
    "simulator",
    "upstream",
}


def loaded(code: str, cwd: Path) -> set[str]:
    """The modules of a fresh interpreter after this code."""
    code += "\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=cwd)
    return set(done.stdout.split())


def test_importing_and_making_a_producer_loads_what_submitting_needs(tmp_path: Path) -> None:
    """Both faces; for the rest there is the first use."""
    modules = loaded("from stockpot import AsyncStockpot, Stockpot\nStockpot()\nAsyncStockpot()", tmp_path)
    assert {"worker.producer.stockpot", "worker.producer.async_stockpot", "sqlalchemy"} <= modules
    assert modules & LIBRARIES == set()
    assert {name for name in modules if name.startswith("worker.") and name.split(".")[1] in ROOMS} == set()


def test_every_object_of_a_producer_is_there_when_it_is_asked_for(tmp_path: Path) -> None:
    """Each in a fresh interpreter would be thorough, and slow: their order here is that of their imports."""
    objects = ("calls", "keys", "budgets", "files", "webhooks", "routes", "batches", "follower")
    code = "from stockpot import Stockpot\npot = Stockpot()\n" + "\n".join(f"pot.{name}" for name in objects)
    assert {"worker.producer.batches", "worker.producer.reader"} <= loaded(code, tmp_path)
