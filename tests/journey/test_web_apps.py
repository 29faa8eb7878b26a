"""The applications of `docs/web/`, as they stand there, each in a browser: streams, broken attempts, killed servers, reload, stop."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fakes import Provider, Workplace, workplace
from tests.rig.browser import browser
from tests.rig.environment import environment
from tests.rig.ports import free_port
from tests.rig.procs import Process
from tests.rig.waiting import eventually

if TYPE_CHECKING:
    from playwright.sync_api import Page

APPS = Path(__file__).parents[2] / "docs" / "web"
ASGI = ["-m", "uvicorn", "--timeout-graceful-shutdown", "1", "--port"]
COMMANDS = {
    "fastapi": [*ASGI, "{port}", "fastapi_app:app"],
    "django": [*ASGI, "{port}", "django_app:app"],
    "flask": ["-m", "flask", "--app", "flask_app", "run", "--port", "{port}"],
}
#: Asks as the page's form does, for the model that the test wants, and follows.
ASK = """async (model) => {
  const answer = await fetch("/jobs", { method: "POST", body: new URLSearchParams({ prompt: "hi", model }) });
  const id = (await answer.json()).id;
  follow(id);
  return id;
}"""


@pytest.fixture
def place(tmp_path: Path, sqlite_url: str, redis_url: str) -> Iterator[Workplace]:
    with Provider(tmp_path) as provider, workplace(provider, sqlite_url, redis_url, total_timeout=100) as place:
        yield place


class Server:
    """One of the applications, on a port that stays its own."""

    def __init__(self, name: str, place: Workplace, home: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, *(part.format(port=self.port) for part in COMMANDS[name])]
        self._env = environment(
            home,
            database_url=place.settings.database_url,
            redis_url=place.settings.redis_url,
            upstream_url=place.settings.upstream_url,
            PYTHONPATH=APPS.parents[1],
        )
        self._home, self._name, self._starts = home, name, 0
        self.start()

    def start(self) -> None:
        self._starts += 1
        name = f"{self._name}-{self._starts}"
        self.process = Process(self._command, logs=self._home, name=name, env=self._env, cwd=APPS)
        eventually(self._answers, 60, what="the application answers")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/", timeout=5) as answer:
                return answer.status == 200  # type: ignore[no-any-return]
        except OSError:
            if not self.process.running:
                raise RuntimeError(self.process.tail()) from None
            return False


def shown(page: Page) -> str:
    return page.inner_text("#answer")


@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_page_shows_the_answer_whatever_breaks(name: str, place: Workplace, home: Path) -> None:
    """An attempt that broke, a server killed in mid-stream, a reload, the stop button; one page after the other."""
    with browser() as open_page:  # first: where there is none, nothing was begun
        server = Server(name, place, home)
        place.start()
        page = open_page()
        page.goto(server.url)

        job = page.evaluate(ASK, "m@sim:cut@3,tokens=120+slow=40")
        page.wait_for_function("document.getElementById('answer').textContent.length > 20")
        assert page.inner_text("#status") == "running"
        server.process.kill9()
        server.process.close()
        server.start()
        page.wait_for_function("document.getElementById('status').textContent === 'completed'")
        done = place.get(job)
        assert (shown(page), done.status, done.attempts) == (done.text, "completed", 2)

        page.reload()
        page.wait_for_function("document.getElementById('status').textContent === 'completed'")
        assert shown(page) == done.text

        job = page.evaluate(ASK, "m@sim:tokens=400+slow=40")
        page.wait_for_function("document.getElementById('status').textContent === 'running'")
        page.click("#stop")
        page.wait_for_function("document.getElementById('status').textContent.startsWith('cancelled')")
        stopped = place.get(job)
        assert (stopped.status, shown(page)) == ("cancelled", stopped.text or "")
    refused = urllib.request.Request(f"{server.url}/jobs/job_none/events")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(refused, timeout=30)
    with caught.value as answer:
        assert answer.code == 404
    server.process.close()
