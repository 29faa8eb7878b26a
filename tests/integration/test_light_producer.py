"""Producers that install next to nothing: the two examples of `docs/into_your_project.md`, run as they stand there."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from api_schemas.ids import is_job_id
from tests.factories import chat, opened, rows
from tests.fakes import Provider
from tests.rig.procs import Process
from tests.rig.waiting import eventually
from worker.base.errors import InvalidRequest, NotFound, SettingsError, Unreachable
from worker.base.settings import Settings
from worker.producer.stockpot import Stockpot

PAGE = Path(__file__).resolve().parents[2] / "docs" / "into_your_project.md"
CELERY = "celery kombu billiard vine amqp redis hiredis dateutil six click click_didyoumean click_plugins click_repl packaging tzdata tzlocal wcwidth prompt_toolkit async_timeout"
LIGHT = f"{CELERY} stockpot worker api_schemas pydantic pydantic_core typing_extensions typing_inspection annotated_types orjson"
#: As a machine on which nothing else is installed.
GUARD = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if (top := name.partition(".")[0]) not in sys.stdlib_module_names | INSTALLED and top[0] != "_":
            raise ModuleNotFoundError(f"No module named {{name!r}}")
sys.meta_path.insert(0, Missing())
INSTALLED = set({installed!r}.split())
"""


def example(marker: str) -> str:
    """The page's Python block that has this text."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    [found] = [block for block in blocks if marker in block]
    return str(found)


def test_both_examples_of_the_page_are_jobs_without_a_database(
    home: Path,
    sqlite_url: str,
    redis_url: str,
    tmp_path: Path,
    stockpot_env: Callable[..., dict[str, str]],
    start_worker: Callable[..., Process],
    launch: Callable[..., Process],
) -> None:
    """With Celery alone, and with what Celery, pydantic and orjson are; `CELERY_BROKER_URL` is another application's."""
    settings = Settings(home=home, database_url=sqlite_url, redis_url=redis_url)
    env = stockpot_env(redis_url="redis://127.0.0.1:1/0") | {"CELERY_BROKER_URL": "redis://127.0.0.1:1/0"}
    printed = {}
    for name, marker, installed in (("light", "BrokerProducer(", LIGHT), ("celery", "send_task(", CELERY)):
        code = example(marker).replace("redis://redis.internal/0", redis_url)
        assert redis_url in code
        script = tmp_path / f"{name}_producer.py"
        script.write_text(GUARD.format(installed=installed) + code, encoding="utf-8")
        producer = launch([sys.executable, str(script)], name=name, env=env, cwd=tmp_path)
        assert producer.wait() == 0, producer.output
        printed[name] = producer.stdout.read_text().strip()
    assert is_job_id(printed["light"])
    with Provider(tmp_path) as provider:
        start_worker(stockpot_env(database_url=sqlite_url, redis_url=redis_url, upstream_url=provider.url))
        with Stockpot(settings) as pot, opened(sqlite_url) as database:
            query = "SELECT id FROM jobs WHERE idempotency_key = 'order-17'"
            eventually(lambda: _is_there(pot, printed["light"]) and rows(database, query) != [], 60, "both are there")
            assert pot.wait(printed["light"], timeout=60).status == "completed"
            assert pot.wait(rows(database, query)[0]["id"], timeout=60).status == "completed"


def _is_there(pot: Stockpot, job: str) -> bool:
    try:
        pot.get(job)
    except (NotFound, Unreachable):
        return False
    return True


def test_what_cannot_be_sent_is_refused_where_it_is_made() -> None:
    """The request by field, the URL without its password, a broker that is not there with what to do."""
    from stockpot.light import BrokerProducer

    for url in ("sentinel://h:1/0", "redis://h:secret@x@y/0"):
        with pytest.raises(SettingsError) as refused:
            BrokerProducer(url)
        assert "secret" not in str(refused.value)
    with BrokerProducer("redis://127.0.0.1:1/0") as pot:
        with pytest.raises(InvalidRequest):
            pot.submit({"model": "m"})
        with pytest.raises(TypeError, match="Did you mean"):
            pot.submit(chat("x"), idempotancy_key="k")  # type: ignore[call-arg]
        with pytest.raises(Unreachable, match="broker"):
            pot.submit(chat("x"))
