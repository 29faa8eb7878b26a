"""Celery's own list of options, and what each does here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import celery.bin.worker as worker_command
import pytest
from celery.bin.celery import celery
from celery.bin.worker import worker
from celery.loaders.app import AppLoader
from click.testing import CliRunner

from stockpot.light import BrokerProducer
from worker.base.settings import settings
from worker.broker import options, starting
from worker.broker.app import app, app_of

PAGE = (Path(__file__).parents[2] / "docs" / "celery.md").read_text(encoding="utf-8")
#: A value for each option that takes one.
VALUES = {
    "concurrency": "4",
    "autoscale": "4,1",
    "prefetch_multiplier": "4",
    "time_limit": "4",
    "soft_time_limit": "4",
    "max_tasks_per_child": "4",
    "max_memory_per_child": "4",
    "pool_start_method": "fork",
    "schedule_filename": "x",
    "scheduler": "x",
}
#: Without any effect, and harmless: their features are off anyway.
WITHOUT_EFFECT = {
    "statedb": "holds revoked tasks, and none can be revoked: `stockpot cancel`",
    "optimization": "about a pool of processes",
    "include": "the modules are imported, and messages for their tasks are not taken",
    "without_gossip": "always so",
    "without_mingle": "always so",
    "without_heartbeat": "always so",
    "heartbeat_interval": "workers send no events",
}
#: As Celery documents them.
HONOURED = {
    "hostname": "the worker's name",
    "detach": "in the background, with `--pidfile` and `--logfile`",
    "loglevel": "wins over STOCKPOT_LOG_LEVEL",
    "pool": "`threads` (the default) or `solo`; any other is refused",
    "queues": "the lanes that this worker claims: `interactive`, `bulk`",
    "exclude_queues": "the lanes that it leaves to others",
    "logfile": "mode 0600",
    "pidfile": "removed at the end",
    "uid": "the user to become",
    "gid": "the group to become",
    "umask": "of the process",
    "executable": "Python, with `--detach`",
}


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Redis that nobody asks: without one, the app would start the home's own."""
    monkeypatch.setenv("STOCKPOT_REDIS_URL", "redis://127.0.0.1:1/0")
    settings.cache_clear()
    yield
    settings.cache_clear()


def start(*arguments: str) -> str:
    """What a worker that does not start says."""
    done = CliRunner().invoke(celery, ["-A", "worker.celery:app", "worker", *arguments])
    assert isinstance(done.exception, SystemExit), done.output
    return str(done.exception)


def test_the_environment_of_another_application_chooses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery's own names in it, and names as common as APP, which `stockpot worker` once took for its app."""
    for name in ("APP", "LOADER", "BROKER_URL", "RESULT_BACKEND", "CONFIG_MODULE", "CELERY_LOADER"):
        monkeypatch.setenv(name, "nowhere")
    for option in celery.params:
        monkeypatch.setattr(option, "envvar", option.envvar)
        monkeypatch.setattr(option, "default", option.default)
    monkeypatch.setattr(worker_command, "detach", worker_command.detach)
    monkeypatch.setattr(sys, "argv", sys.argv)
    chosen: dict[str, object] = {}
    monkeypatch.setattr(celery, "main", lambda words, **_: chosen.update(celery.make_context("celery", words).params))
    with pytest.raises(SystemExit):
        starting.start(["stockpot"], ["worker"])
    assert chosen.pop("app") is app
    assert {name: value for name, value in chosen.items() if value} == {}
    assert {type(one.loader) for one in (app_of(settings()), BrokerProducer("redis://127.0.0.1:1/0")._app)} == {
        AppLoader
    }


def test_every_option_of_celery_has_one_row_that_says_what_it_does() -> None:
    """Also those that another version of Celery may bring."""
    tables = [options.REFUSED, WITHOUT_EFFECT, HONOURED]
    names = [str(one.name) for one in worker.params if one.name != "help"]
    known = [name for table in tables for name in table]
    assert len(known) == len(set(known))
    assert set(names) <= set(known)
    for one in worker.params:
        row = "| " + ", ".join(f"`{name}`" for name in one.opts) + " | "
        for table, begins in zip(tables, ("refused: ", "no effect: ", ""), strict=True):
            if one.name in table:
                assert f"{row}{begins}{table[str(one.name)]} |" in PAGE


@pytest.mark.parametrize("name", list(options.REFUSED))
def test_an_option_that_cannot_be_honoured_is_refused(name: str) -> None:
    """With what means it here."""
    option = next((one for one in worker.params if one.name == name), None)
    if option is None:
        pytest.skip("this version of Celery does not have it")
    value = [] if getattr(option, "is_flag", False) else [VALUES[name]]
    assert options.REFUSED[name] in start(option.opts[-1], *value)


@pytest.mark.parametrize("words", [["-P", "prefork"], ["--pool=processes"], ["-Pprefork"]])
def test_another_pool_is_refused(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery takes `prefork` for the default and starts threads."""
    monkeypatch.setattr("sys.argv", ["celery", "worker", *words])
    assert "cannot be used" in start(*words)


@pytest.mark.filterwarnings("ignore:You're running the worker with superuser")
def test_a_queue_that_is_no_lane_is_refused() -> None:
    assert "-Q and -X take interactive and bulk" in start("-Q", "celery")
    assert options.queues_of(["bulk", "stockpot.interactive"], "stockpot") == ["stockpot.bulk", "stockpot.interactive"]
    assert options.queues_of("bulk", "mine") == ["mine.bulk"]


@pytest.mark.parametrize("words", [["purge", "-f"], ["control", "shutdown"], ["inspect", "active"]])
def test_what_would_delete_submissions_or_needs_a_workers_ear_is_refused(words: list[str]) -> None:
    """On the command line in a sentence; in a program as an exception."""
    done = CliRunner().invoke(celery, ["-A", "worker.celery:app", *words])
    assert done.exit_code == 2
    assert "stockpot" in done.output
    with pytest.raises(Exception, match="not purged"):
        app.control.purge()


def test_the_interpreters_own_option_is_no_pool() -> None:
    """`stockpot up` starts its workers so."""
    assert options._pool(["-P", "-m", "worker.celery", "--quiet", "worker", "-n", "one"]) is None
    assert options._pool(["celery", "-A", "worker", "worker", "-P", "gevent"]) == "gevent"
    assert options._pool(["stockpot", "worker"]) is None
