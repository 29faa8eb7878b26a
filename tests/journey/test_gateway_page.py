"""A page that follows a job by a signed URL at `stockpot serve`: reload, a gateway killed and restarted, the stop button."""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.factories import chat
from tests.fakes import Provider, Workplace, workplace
from tests.rig.browser import browser
from tests.rig.environment import environment
from tests.rig.ports import free_port
from tests.rig.procs import Process
from tests.rig.waiting import eventually
from worker.producer.stockpot import Stockpot

#: The page's own server is not the gateway, so the test stands in for it: it gives the page, and cancels for it.
PAGE = """
<pre id="answer"></pre><p id="status"></p><button id="stop">Stop</button>
<script src="/stockpot.js"></script>
<script>
  const query = new URLSearchParams(location.search);
  document.getElementById("stop").onclick = () => cancelJob(query.get("job"));
  stockpot(query.get("events"), {
    show: document.getElementById("answer"),
    change(job) { document.getElementById("status").textContent = job.status; },
  });
</script>
"""
SECRET = "a-secret-of-some-length-for-both"
#: What a proxy adds: who comes so has no leave on this machine but a key's or a signed URL's.
STRANGER = {"x-forwarded-for": "203.0.113.9"}
STATUS = "document.getElementById('status').textContent === '{}'"


@pytest.fixture
def place(tmp_path: Path, sqlite_url: str, redis_url: str) -> Iterator[Workplace]:
    with (
        Provider(tmp_path) as provider,
        workplace(provider, sqlite_url, redis_url, total_timeout=100, secret_key=SECRET) as place,
    ):
        yield place


def serve(place: Workplace, home: Path, port: int, name: str) -> Process:
    """Start the gateway as a user does, and wait until it answers."""
    env = environment(
        home,
        database_url=str(place.settings.database_url),
        redis_url=place.settings.redis_url,
        upstream_url=place.settings.upstream_url,
        STOCKPOT_SECRET_KEY=SECRET,
    )
    command = [str(Path(sys.executable).with_name("stockpot")), "serve", "--port", str(port)]
    process = Process(command, logs=home, name=name, env=env)

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            if not process.running:
                raise RuntimeError(process.tail()) from None
            return False

    eventually(answers, 60, what="the gateway answers")
    return process


def test_a_page_follows_by_a_signed_url_whatever_becomes_of_the_gateway(place: Workplace, home: Path) -> None:
    port = free_port()
    # The browser's loop runs in this thread, so what blocks has another one.
    # It is the first to start: where there is none, nothing was begun.
    with browser() as open_page, Stockpot(place.settings) as pot, ThreadPoolExecutor(1) as elsewhere:
        gateway = serve(place, home, port, "gateway-1")
        place.start()
        page = open_page()
        page.set_extra_http_headers(STRANGER)
        page.route(lambda url: "/page?" in url, lambda route: route.fulfill(body=PAGE, content_type="text/html"))
        page.expose_function("cancelJob", lambda job: elsewhere.submit(pot.cancel, job).result(60))

        def follow(model: str) -> str:
            job = elsewhere.submit(pot.submit, chat("hi", model=model, stream=True)).result(60).id
            page.goto(f"http://127.0.0.1:{port}/page?job={job}&events={quote(pot.stream_url(job))}")
            page.wait_for_function("document.getElementById('answer').textContent.length > 10")
            return job

        job = follow("m@sim:tokens=60+slow=40")
        gateway.kill9()
        gateway.close()
        gateway = serve(place, home, port, "gateway-2")
        page.wait_for_function(STATUS.format("completed"))
        assert page.inner_text("#answer") == place.get(job).text
        page.reload()
        page.wait_for_function(STATUS.format("completed"))
        assert page.inner_text("#answer") == place.get(job).text

        job = follow("m@sim:tokens=400+slow=40")
        page.click("#stop")
        page.wait_for_function(STATUS.format("cancelled"))
        assert page.inner_text("#answer") == place.get(job).text
    gateway.close()
