"""A producer that was used before a fork, and scripts that close nothing: children begin anew, and everything ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.rig.witness import Witness

Environment = Callable[..., dict[str, str]]

#: Forks come at once after the first submission, when the parent's doorbell has begun to import Celery.
FORKS = """
import json, os
from worker import Stockpot, WaitTimeout
body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
found = []
for turn in range(6):
    pot = Stockpot()
    first = pot.submit(body).id
    if turn % 2:  # readers, too, are inherited
        try:
            pot.wait(first, timeout=0.1)
        except WaitTimeout:
            pass
    children = []
    for _ in range(4):
        read, write = os.pipe()
        if not (pid := os.fork()):
            said = {"pid": os.getpid(), "errors": [], "ids": []}
            try:
                said["ids"] = [pot.submit(body).id for _ in range(3)]
                said["found"] = pot.get(first).id == first
                try:
                    pot.wait(first, timeout=0.1)
                except WaitTimeout:
                    said["waited"] = True
                bell = pot._shared.doorbell
                said["rung"] = [bell._idle.wait(20), bell._thread.is_alive(), not bell.failed] == [True] * 3
            except Exception as error:
                said["errors"].append(repr(error))
            os.write(write, json.dumps(said).encode())
            os._exit(0)
        os.close(write)
        children.append((pid, read))
    mine = [pot.submit(body).id for _ in range(3)]  # beside the children, on the sockets that they inherited
    for pid, read in children:
        with os.fdopen(read) as pipe:
            found.append(json.load(pipe))
        os.waitpid(pid, 0)
    found.append({"pid": os.getpid(), "ids": mine, "errors": [], "found": True, "waited": True, "rung": True})
    for one in found:
        for job in one["ids"]:
            pot.get(job)
    pot.close()
print(json.dumps(found))
"""

#: A thread makes the first producer, and with it the import of SQLAlchemy; the fork comes when that has begun.
IMPORTS = """
import json, os, signal, sys, threading
from worker import Stockpot
begun, forking = threading.Event(), threading.Event()
class AtSqlalchemy:
    def find_spec(self, name, path, target=None):
        if name == "sqlalchemy":
            begun.set()
            forking.wait()
sys.meta_path.insert(0, AtSqlalchemy())
thread = threading.Thread(target=Stockpot)
thread.start()
begun.wait()
os.register_at_fork(before=forking.set)
if not (pid := os.fork()):
    signal.alarm(60)  # a child that waits for its parent's thread
    Stockpot().close()
    os._exit(0)
thread.join()
print(json.dumps([forking.is_set(), os.waitpid(pid, 0)[1]]))
"""

#: As a server in C forks (uWSGI): nothing that is registered with Python for a fork is run. The parent's threads are idle.
UNNOTICED = """
import ctypes, json, os
from worker import Stockpot, WaitTimeout
body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
pot = Stockpot()
first = pot.submit(body).id
def waits():
    try:
        pot.wait(first, timeout=0.1)
    except WaitTimeout:
        return True
shared = pot._shared
said = {"parent": os.getpid(), "idle": shared.doorbell._idle.wait(60), "reads": bool(shared.loop() and shared.follower)}
read, write = os.pipe()
if not (pid := ctypes.PyDLL(None).fork()):
    said["pid"] = os.getpid()
    try:
        said["ids"] = [first, *(pot.submit(body).id for _ in range(3))]
        said["waited"] = waits()
        said["rung"] = shared.doorbell._idle.wait(60)
        pot.close()
    except BaseException as error:
        said["error"] = repr(error)
    os.write(write, json.dumps(said).encode())
    os._exit(0)
os.close(write)
with os.fdopen(read) as pipe:
    said = json.load(pipe)
os.waitpid(pid, 0)
said["found"] = [pot.get(job).id for job in said["ids"]]
pot.close()
print(json.dumps(said))
"""

#: The fork comes while another thread is in the middle of a message, with a lock of its connection's in hand.
SENDS = """
import json, os, threading
held, sends, forks = threading.Lock(), threading.Event(), threading.Event()
class App:
    def send_task(self, *given, **named):
        with held:
            sends.set()
            forks.wait(60)
SENDER
began = sends.wait(60)
os.register_at_fork(before=forks.set)  # what is registered last runs first
if not (pid := os.fork()):
    os._exit(held.locked())
print(json.dumps([began, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]))
"""
DOORBELL = """
from worker.base.settings import Settings
from worker.broker.doorbell import Doorbell
bell = Doorbell(Settings())
bell._ready_app = lambda: (App(), lambda lane, namespace: lane)
bell.ring(["job_1"], "interactive")
"""
BROKER_PRODUCER = """
from stockpot.light import BrokerProducer
pot = BrokerProducer("redis://127.0.0.1:1/0")
pot._app.send_task = App().send_task
threading.Thread(target=pot.submit, args=({"model": "m", "messages": [{"role": "user", "content": "?"}]},)).start()
"""

SCRIPT = """
import threading
from worker import Stockpot, WaitTimeout
pot = Stockpot()
job = pot.submit({"model": "m", "messages": [{"role": "user", "content": "hello"}]})
try:
    pot.wait(job.id, timeout=0.1)
except WaitTimeout:
    pass
kept = pot.events(job.id, heartbeat=0.1)
print(next(kept)["type"], threading.active_count() > 1)
threading.Thread(target=lambda: print(len(list(pot.events(job.id))))).start()  # no daemon: Python waits for it
"""

#: An application whose handler of SIGTERM does something else than to end it.
STAYS = """
import asyncio, os, signal
signal.signal(signal.SIGTERM, lambda *_: print("reads its configuration"))
from worker import AsyncStockpot
from worker.producer import connections
async def main():
    async with AsyncStockpot() as pot:
        job = await pot.submit({"model": "m", "messages": [{"role": "user", "content": "hello"}]})
        for seconds in (60, 0):
            connections.SHUT_SECONDS = seconds
            reader = pot.events(job.id, heartbeat=0.1)
            print((await anext(reader))["type"])
            os.kill(os.getpid(), signal.SIGTERM)
            print([one["type"] async for one in reader if one["type"] != "heartbeat"])
            if seconds:
                print([one async for one in pot.events(job.id, heartbeat=0.1)])
                connections._open[0]._follower.shut_until = 0  # a minute passes
asyncio.run(main())
"""

TENANTS = """
import gc, threading
from worker import Stockpot
body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
pot = Stockpot()
pot.submit(body)
one = threading.active_count()
for number in range(20):
    pot.for_tenant(f"user-{number}").submit(body)
    Stockpot().submit(body)
many = threading.active_count()
pot.close()
del pot
gc.collect()
for thread in set(threading.enumerate()) - {threading.current_thread()}:
    thread.join(30)
print(one, many, threading.active_count())
"""


def run(code: str, env: dict[str, str], where: Path) -> subprocess.CompletedProcess[str]:
    """Run a script to its end, which must come by itself."""
    return subprocess.run([sys.executable, "-c", code], env=env, cwd=where, capture_output=True, text=True, timeout=120)


def forked(code: str, env: dict[str, str], where: Path, *, logs: str = "") -> Any:
    """What a script that forks prints, as JSON; its log has `logs`."""
    done = run(code, env, where)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert logs in done.stderr, done.stderr
    return json.loads(done.stdout)


@pytest.mark.fault
def test_children_of_a_used_producer_share_nothing_with_it(
    stockpot_env: Environment, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Every job that was accepted is there, no answer goes astray, and each child's doorbell rings."""
    env = stockpot_env(database_url=database_url, redis_url=redis_url)
    with Witness("processes forked from one that had connections") as witness:
        answers: list[dict[str, Any]] = []
        witness.inject(lambda: answers.extend(forked(FORKS, env, tmp_path)))
        witness.saw(len({one["pid"] for one in answers}) > 20)
    assert [one["errors"] for one in answers if one["errors"]] == []
    missing = [name for one in answers for name in ("found", "waited", "rung") if not one.get(name)]
    assert missing == []
    ids = [job for one in answers for job in one["ids"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("sender", [DOORBELL, BROKER_PRODUCER], ids=["doorbell", "broker-producer"])
def test_a_fork_waits_for_the_message_that_is_being_sent(
    stockpot_env: Environment, tmp_path: Path, sender: str
) -> None:
    """A child of `multiprocessing` hung for ever in closing that connection: the lock was a thread's that it did not have."""
    assert forked(SENDS.replace("SENDER", sender), stockpot_env(), tmp_path) == [True, 0]


def test_a_fork_waits_for_the_import_that_a_thread_makes(stockpot_env: Environment, tmp_path: Path) -> None:
    """The first producer imports the database's half. A child that began with half of it would wait for ever."""
    assert forked(IMPORTS, stockpot_env(), tmp_path) == [True, 0]


@pytest.mark.fault
def test_a_fork_of_which_python_is_not_told_is_noticed(
    stockpot_env: Environment, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Streams hung in uWSGI's workers, on the parent's loop, and its sockets were shared. The child says what to mend."""
    env = stockpot_env(database_url=database_url, redis_url=redis_url)
    with Witness("a process forked behind Python's back") as witness:
        answers: list[dict[str, Any]] = []
        witness.inject(lambda: answers.append(forked(UNNOTICED, env, tmp_path, logs="fork_unnoticed")))
        witness.saw([one for one in answers if one["pid"] != one["parent"]])
    for one in answers:
        assert (one.get("error"), one["waited"], one["idle"], one["rung"]) == (None, True, True, True)
        assert one["found"] == one["ids"]


def test_a_script_that_closes_nothing_ends(stockpot_env: Environment, redis_url: str, tmp_path: Path) -> None:
    """With a reader that is half read, and one in a thread that waits for a job that never runs."""
    done = run(SCRIPT, stockpot_env(redis_url=redis_url), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "heartbeat True"


def test_an_application_that_survives_a_signal_has_readers_again(
    stockpot_env: Environment, redis_url: str, tmp_path: Path
) -> None:
    """They end in case the signal ends the process, and none begins for a while; there were none for good."""
    done = run(STAYS, stockpot_env(redis_url=redis_url), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    handled = ["heartbeat", "reads its configuration", "[]"]
    assert done.stdout.splitlines() == [*handled, "[]", *handled]


def test_tenants_and_forgotten_producers_share_the_threads_of_one(
    stockpot_env: Environment, redis_url: str, tmp_path: Path
) -> None:
    """And none is left when all are gone."""
    done = run(TENANTS, stockpot_env(redis_url=redis_url), tmp_path)
    assert done.returncode == 0, done.stderr
    one, many, none = map(int, done.stdout.split())
    assert many == one
    assert none == 1
