"""Real servers with open streams: they stop, reload and recycle at once, and every reader goes on where it was."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.fakes import Provider, Workplace, workplace
from tests.rig.environment import environment
from tests.rig.ports import free_port
from tests.rig.procs import Process
from tests.rig.waiting import eventually
from worker.producer.stockpot import Stockpot

APPS = Path(__file__).parents[2] / "docs" / "web"
#: A job that is still writing when the server is asked to stop.
SLOW = "m@sim:tokens=200+slow=20"

UVICORN = [sys.executable, "-m", "uvicorn", "--port", "{port}", "fastapi_app:app"]
GUNICORN = [
    *(sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--graceful-timeout", "1"),
    *("--worker-class", "gthread", "--threads", "64", "flask_app:app"),
]


@pytest.fixture
def place(tmp_path: Path, sqlite_url: str, redis_url: str) -> Iterator[Workplace]:
    with Provider(tmp_path) as provider, workplace(provider, sqlite_url, redis_url, total_timeout=100) as place:
        place.start()
        yield place


@pytest.fixture
def serve(
    place: Workplace, home: Path, tmp_path: Path, launch: Callable[..., Process]
) -> Callable[..., tuple[str, Process]]:
    """Starts an application of `docs/web/`, from a copy, and gives its URL and its process."""
    apps = shutil.copytree(APPS, tmp_path / "apps")

    def start(command: list[str], *more: str, before: str = "") -> tuple[str, Process]:
        port = free_port()
        for app in apps.glob("*_app.py"):
            app.write_text((APPS / app.name).read_text() + before)
        env = environment(
            home,
            database_url=place.settings.database_url,
            redis_url=place.settings.redis_url,
            upstream_url=place.settings.upstream_url,
            PYTHONPATH=APPS.parents[1],
        )
        words = [part.format(port=port) for part in [*command[:-1], *more, command[-1]]]
        process = launch(words, name="server", env=env, cwd=apps)
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: answers(url, process), 60, what="the server answers")
        return url, process

    return start


def answers(url: str, process: Process) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        if not process.running:
            raise RuntimeError(process.tail()) from None
        return False


def ask(url: str, model: str = SLOW) -> str:
    form = urlencode({"prompt": "hi", "model": model}).encode()
    with urllib.request.urlopen(f"{url}/jobs", form, timeout=30) as answer:
        return str(json.load(answer)["id"])


class Reader:
    """A browser: it reads a job's stream, and comes back with its last number for as long as there is no end."""

    def __init__(self, url: str, job: str) -> None:
        self._url, self._job = url, job
        self.text, self.last, self.losses, self.begun = "", 0, 0, threading.Event()
        self.ends: list[str] = []
        self.seen: list[int] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        while not self.ends:
            asked = urllib.request.Request(
                f"{self._url}/jobs/{self._job}/events", headers={"Last-Event-ID": str(self.last)}
            )
            try:
                with urllib.request.urlopen(asked, timeout=60) as answer:
                    for line in answer:
                        self._take(line)
            except OSError:
                pause.wait(0.1)
            self.losses += 1

    def _take(self, line: bytes) -> None:
        if not line.startswith(b"data: "):
            return
        event = json.loads(line[6:])
        self.last = event["seq"]
        self.seen.append(event["seq"])
        self.text += event.get("text", "")
        if event["type"] == "attempt.reset":
            self.text = ""
        if event["type"] == "chunk":
            self.begun.set()
        if event["type"] in {"job.completed", "job.failed", "job.cancelled", "job.expired"}:
            self.ends.append(event["type"])

    def join(self) -> None:
        self._thread.join(90)
        assert not self._thread.is_alive(), (self.ends, self.last)


def check(place: Workplace, readers: dict[str, list[Reader]]) -> None:
    """Everybody has the whole answer, each event once."""
    for job, several in readers.items():
        for reader in several:
            reader.join()
        done = place.get(job)
        for reader in several:
            assert reader.ends == ["job.completed"]
            assert reader.text == done.text
            assert len(reader.seen) == len(set(reader.seen))


def test_fifty_streams_delay_no_stop_and_no_reload(
    place: Workplace, serve: Callable[..., tuple[str, Process]], tmp_path: Path
) -> None:
    """uvicorn as it comes, with `--reload`: a changed file starts it anew although streams are open, and SIGTERM ends it."""
    url, server = serve(UVICORN, "--reload")
    jobs = [ask(url) for _ in range(5)]
    readers = {job: [Reader(url, job) for _ in range(10)] for job in jobs}
    eventually(lambda: all(one.begun.is_set() for several in readers.values() for one in several), 60)
    (tmp_path / "apps" / "fastapi_app.py").write_text((APPS / "fastapi_app.py").read_text() + "\n# changed\n")
    server.wait_for_line("Reloading", 60)
    eventually(lambda: all(one.losses for several in readers.values() for one in several), 30, what="all lost it")
    check(place, readers)
    job = ask(url, "m@sim:tokens=4000+slow=20")
    last = Reader(url, job)
    eventually(last.begun.is_set, 30)
    server.term()
    server.wait(20)
    assert "Traceback" not in server.output, server.output
    with Stockpot(place.settings) as pot:
        pot.cancel(job)


def test_a_used_parent_and_recycled_workers(place: Workplace, serve: Callable[..., tuple[str, Process]]) -> None:
    """gunicorn with `--preload`, whose parent has submitted and read before it forks, and `--max-requests`."""
    used = """
first = pot.submit({"model": "m@sim:tokens=3", "messages": [{"role": "user", "content": "hi"}]})
assert pot.wait(first.id, timeout=60).status == "completed"
assert list(pot.events(first.id))[-1]["type"] == "job.completed"
"""
    url, server = serve(GUNICORN, "--preload", "--workers", "2", "--max-requests", "4", before=used)
    readers: dict[str, list[Reader]] = {}
    for _ in range(8):
        job = ask(url)
        readers[job] = [Reader(url, job)]
    check(place, readers)
    assert "Autorestarting worker" in server.output or "Booting worker" in server.output
    assert len(set(readers)) == 8
    server.term()
    assert server.wait(30) == 0
    assert "Traceback" not in server.output, server.output
