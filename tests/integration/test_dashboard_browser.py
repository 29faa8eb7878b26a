"""The dashboard in a browser: live tokens, a reload in their midst, hostile text, no errors, axe without serious complaints."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib import resources
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from tests.batch_factories import write_file
from tests.factories import chat
from tests.fakes import Workplace
from tests.rig.browser import browser
from tests.rig.gateway import Gateway
from worker.producer.keys import Keys

if TYPE_CHECKING:
    from playwright.sync_api import Page

SCRIPT = "<script>window.stolen = 1</script><img src=x onerror='window.stolen = 1'>"
#: As it comes it would be read as `exe.png`.
TURNED = "\u202egnp.exe\u061c"
#: How many of two presses would be sent.
PRESSED_TWICE = """(selector) => {
  let sent = 0;
  addEventListener("submit", (event) => { if (!event.defaultPrevented) sent++; event.preventDefault(); });
  const form = document.querySelector(selector);
  form.requestSubmit();
  form.requestSubmit();
  return sent;
}"""
ANSI = "\x1b[31mred\x1b]0;title\x07"
PAGES = ("/", "/jobs", "/batches", "/routes", "/costs", "/webhooks", "/workers", "/keys", "/playground", "/log")


@pytest.fixture
def open_page(gateway: Gateway) -> Iterator[Callable[..., Page]]:
    """Opens a page of the dashboard; what its console complains of fails the test."""
    complaints: list[str] = []
    with browser() as open_one:

        def opened(path: str) -> Page:
            page = open_one()
            page.on("console", lambda line: complaints.append(line.text) if line.type in {"error", "warning"} else None)
            page.goto(f"{gateway.url}/ui{path}")
            return page

        yield opened
    assert complaints == []


def test_tokens_come_live_and_go_on_after_a_reload(open_page: Callable[..., Page], served: Workplace) -> None:
    job = served.submit("tokens=300+slow=40", stream=True)
    page = open_page(f"/jobs/{job}")
    page.wait_for_selector(".answer:text-matches('[^]{20}')")
    page.reload()
    page.wait_for_selector(".answer:text-matches('[^]{20}')")
    assert served.get(job).status == "in_progress"
    page.wait_for_selector("#text")
    assert page.inner_text("#text").split() == (served.get(job).text or "").split()
    assert page.text_content("#live .status") == "completed"


def test_stop_ends_a_job_and_retry_runs_it_again(open_page: Callable[..., Page], served: Workplace) -> None:
    job = served.submit("tokens=2000+slow=40,ok", stream=True)
    page = open_page(f"/jobs/{job}")
    page.wait_for_selector(".answer:text-matches('[^]{10}')")
    page.click("text=Stop")
    page.wait_for_selector("text=cancelled on request")
    page.click("text=Retry")
    page.wait_for_selector(".status.completed")
    assert served.get(job).status == "completed"


def test_what_a_model_writes_is_text_and_hides_nothing(open_page: Callable[..., Page], served: Workplace) -> None:
    schema = {"type": "object", "properties": {"a": {"const": SCRIPT + TURNED}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    job = served.submit_body(chat("hi", model="m@sim:tokens=40+slow=20", stream=True, response_format=wanted))
    page = open_page(f"/jobs/{job}")
    page.wait_for_selector("#text")
    page.wait_for_selector("#text:has-text('⟨202E⟩gnp.exe⟨061C⟩')")
    assert "<script>" in page.inner_text("#text")
    with served.database.engine.begin() as conn:
        conn.execute(text("UPDATE results SET text = :text"), {"text": SCRIPT + ANSI})
        conn.execute(
            text(
                "UPDATE jobs SET custom_id = :text, metadata = :meta, error_message = :text, error_class = 'upstream'"
            ),
            {"text": SCRIPT + ANSI, "meta": '{"a": "\\"><script>window.stolen = 1</script>"}'},
        )
    for path in (f"/jobs/{job}", "/jobs"):
        page.goto(page.url.partition("/ui")[0] + "/ui" + path)
        page.wait_for_load_state("networkidle")
        seen = page.inner_text("main")
        assert "<script>" in seen and "␛[31mred" in seen and "\x1b" not in page.content()
    assert page.evaluate("window.stolen") is None


def test_a_page_is_read_again_while_it_is_seen(open_page: Callable[..., Page], served: Workplace) -> None:
    page = open_page("/jobs")
    job = served.submit()
    page.wait_for_selector(f"#{job} .completed")


def test_a_hidden_page_is_not_read_again(open_page: Callable[..., Page], served: Workplace) -> None:
    """Ten looks' time passes without one while the tab is hidden; the first comes as soon as it is seen."""
    page = open_page("/jobs")
    page.clock.install()
    page.reload()
    looks: list[str] = []
    page.evaluate("Object.defineProperty(document, 'hidden', {configurable: true, get: () => window.away})")
    page.evaluate("window.away = true")
    page.wait_for_load_state("networkidle")
    page.on("request", lambda request: looks.append(request.url))
    page.clock.run_for(10_000)
    assert looks == []
    page.evaluate("window.away = false")
    with page.expect_request(lambda request: "/ui/jobs" in request.url):
        page.clock.run_for(1_500)


def test_the_playground_streams_its_answer(open_page: Callable[..., Page], served: Workplace) -> None:
    """And who presses its button again while it is sent has pressed it once."""
    page = open_page("/playground")
    page.fill("[name=model]", "m@sim:tokens=60+slow=20")
    page.fill("[name=prompt]", "Why is the sky blue?")
    page.click("text=Run")
    page.wait_for_selector(".answer:text-matches('[^]{10}')")
    page.wait_for_selector(".status.completed")
    assert page.input_value("[name=prompt]") == "Why is the sky blue?"
    assert page.evaluate(PRESSED_TWICE, "form[action$='/playground/run']") == 1


def test_a_file_is_quoted_before_it_runs_and_its_answers_come_back(
    open_page: Callable[..., Page], served: Workplace, tmp_path: Path
) -> None:
    write_file(tmp_path / "good.jsonl", 5)
    (tmp_path / "bad.jsonl").write_bytes((tmp_path / "good.jsonl").read_bytes() + b"{not json\n")
    page = open_page("/batches")
    page.set_input_files("[name=file]", tmp_path / "bad.jsonl")
    page.click("text=Upload for a quote")
    page.wait_for_selector("text=1 of 6 lines are bad; nothing is run.")
    assert "not JSON" in page.inner_text("tbody")
    page.goto(page.url.partition("/batches")[0] + "/batches")
    page.set_input_files("[name=file]", tmp_path / "good.jsonl")
    page.click("text=Upload for a quote")
    page.click("text=Run 5 lines")
    page.wait_for_selector("main .status.completed")
    assert "good.jsonl" in page.inner_text("main")
    with page.expect_download() as download:
        page.click("text=Answers")
    lines = Path(download.value.path()).read_text().splitlines()
    assert sorted(json.loads(line)["custom_id"] for line in lines) == [f"r-{n}" for n in range(1, 6)]


def test_signing_in_is_asked_for_by_the_page_itself(open_page: Callable[..., Page], served: Workplace) -> None:
    page = open_page("/jobs")
    _, secret = Keys(served.database).create(name=f"a laptop{'!' * 92}", admin=True)
    page.goto(page.url)
    page.fill("[name=key]", secret)
    page.keyboard.press("Enter")
    page.wait_for_selector("text=a laptop!")
    assert page.url.endswith("/ui/jobs")
    # What is long and has no place to break is no wider than a phone.
    long = {"tenant": "w" * 64, "metadata": {"k" * 60: "v" * 400}}
    done, job = (served.submit_body(chat(model=f"{'m' * 200}@sim:{one}"), **long) for one in ("ok", "400"))
    served.ended(done), served.ended(job)
    with served.database.engine.begin() as conn:
        conn.execute(text("UPDATE jobs SET error_message = :long, custom_id = :long"), {"long": "e" * 2_000})
    page.set_viewport_size({"width": 390, "height": 844})
    root = page.url.removesuffix("/jobs")
    for path in ("/jobs", f"/jobs?text={'q' * 300}", f"/jobs/{job}", f"/costs?tag={'t' * 200}", "/costs?by=tenant"):
        page.goto(root + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path


def test_axe_finds_nothing_serious_and_no_page_is_wider_than_a_phone(
    open_page: Callable[..., Page], served: Workplace
) -> None:
    pytest.importorskip("axe_playwright_python", reason="axe-core is not installed")
    axe = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
    done, failed = served.submit(stream=True), served.submit("400")
    served.ended(done), served.ended(failed)
    page = open_page("/")
    root = page.url
    bad = []
    paths = (*PAGES, f"/jobs/{done}", f"/jobs/{failed}", "/jobs/change?do=retry", "/sign-in")
    for scheme, path in product(("light", "dark"), paths):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of its words
        page.goto(root.rstrip("/") + path)
        page.evaluate(axe)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        bad += [
            (scheme, path, one["id"], [node["html"][:120] for node in one["nodes"]][:3])
            for one in found["violations"]
            if one["impact"] in {"serious", "critical"}
        ]
        if scheme == "light":
            wide = page.viewport_size
            page.set_viewport_size({"width": 390, "height": 844})
            if (width := page.evaluate("document.documentElement.scrollWidth")) > 390:
                bad.append((scheme, path, f"{width} pixels wide", []))
            assert wide is not None
            page.set_viewport_size(wide)
    assert bad == []
