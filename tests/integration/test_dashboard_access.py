"""Who may look at the dashboard and press its buttons, and what its answers allow a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from urllib.parse import quote

import httpx
import pytest
from starlette.routing import Mount, Route

from tests.factories import rows
from tests.fakes import Workplace
from tests.rig.gateway import Gateway
from worker.dashboard.app import routes
from worker.producer.keys import Keys

#: A page with filters, as a link to it has them.
DEEP = "/ui/jobs?status=failed&text=a%26b%2B%F0%9F%8D%B3"
STRANGER = {"x-forwarded-for": "203.0.113.9"}


@pytest.fixture
def keys(served: Workplace) -> Keys:
    return Keys(served.database)


class Browser:
    """A client that keeps cookies and follows redirections, as a browser does."""

    def __init__(self, gateway: Gateway) -> None:
        self.http = httpx.Client(base_url=gateway.url, follow_redirects=True, timeout=60)

    def csrf(self, path: str = "/ui/sign-in") -> str:
        found = re.search(r'name="csrf" value="(\w+)"', self.http.get(path).text)
        assert found is not None
        return found[1]

    def sign_in(self, secret: str, path: str = "") -> httpx.Response:
        form = {"csrf": self.csrf(), "key": secret, "next": path}
        return self.http.post("/ui/sign-in", data=form)


@pytest.fixture
def browser(gateway: Gateway) -> Iterator[Browser]:
    one = Browser(gateway)
    with one.http:
        yield one


def test_without_keys_this_machine_is_served_and_nobody_else(browser: Browser) -> None:
    assert "this machine · admin" in browser.http.get("/ui").text
    for headers in (STRANGER, {"host": "evil.example"}):
        answer = browser.http.get("/ui/", headers=headers)
        assert "only this machine is served" in answer.text and "Sign in" in answer.text


def test_with_the_first_key_everybody_signs_in(browser: Browser, keys: Keys) -> None:
    key, secret = keys.create(name="a laptop", admin=True)
    assert "Sign in" in browser.http.get("/ui/").text
    wrong = browser.sign_in("sk-sp-" + "x" * 43)
    assert wrong.status_code == 401 and "No key like this is in force." in wrong.text
    answer = browser.sign_in(secret, "/ui/log")
    assert answer.url.path == "/ui/log" and "a laptop · admin" in answer.text
    keys.revoke(key.id)
    assert "Sign in" in browser.http.get("/ui/").text


@pytest.mark.parametrize("path", ["https://evil.example/", "//evil.example", "/v1/models", "/ui/\\evil", "/uix"])
def test_signing_in_leads_to_no_other_place(browser: Browser, keys: Keys, path: str) -> None:
    _, secret = keys.create(admin=True)
    assert browser.sign_in(secret, path).url.path == "/ui/"


def test_signing_out_ends_the_session_itself(browser: Browser, keys: Keys) -> None:
    _, secret = keys.create(admin=True)
    browser.sign_in(secret)
    token = browser.http.cookies["stockpot_ui"]
    browser.http.post("/ui/sign-out", data={"csrf": browser.csrf("/ui/")})
    browser.http.cookies.set("stockpot_ui", token, path="/ui")
    assert "Sign in" in browser.http.get("/ui/").text


def test_the_cookie_is_for_no_script_and_no_other_site(browser: Browser, keys: Keys, served: Workplace) -> None:
    _, secret = keys.create(admin=True)
    browser.csrf()
    answer = browser.http.post(
        "/ui/sign-in", data={"csrf": browser.csrf(), "key": secret}, headers={"x-forwarded-proto": "https"}
    )
    cookie = answer.history[0].headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=lax", "Path=/ui", "Secure"))
    kept = str([dict(row) for row in rows(served.database, "SELECT * FROM ui_sessions")])
    assert cookie.partition("=")[2].partition(";")[0] not in kept and secret not in kept


def test_a_form_of_another_site_is_refused(browser: Browser, keys: Keys) -> None:
    _, secret = keys.create(admin=True)
    browser.sign_in(secret)
    token = browser.csrf("/ui/")
    for form, headers in (
        ({}, {}),
        ({"csrf": "0" * 64}, {}),
        ({"csrf": "ä"}, {}),
        ({"csrf": token}, {"sec-fetch-site": "cross-site"}),
        ({"csrf": token}, {"origin": "https://evil.example"}),
    ):
        answer = browser.http.post("/ui/sign-out", data=form, headers=headers)
        assert answer.status_code == 403 and "Not from this page" in answer.text
    assert "· admin" in browser.http.get("/ui/").text


def test_a_reader_presses_no_button_and_an_operator_none_of_an_admin(browser: Browser, keys: Keys) -> None:
    _, secret = keys.create("acme", read_only=True)
    browser.sign_in(secret)
    assert "read only · acme" in browser.http.get("/ui/").text
    assert browser.http.get("/ui/log").status_code == 403


def test_every_page_forbids_what_it_does_not_need(browser: Browser) -> None:
    for path in ("/ui/", "/ui/log", "/ui/nothing", "/ui/sign-in", "/ui/static/dash.js", "/ui/static/none"):
        headers = browser.http.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff"


def test_what_is_not_there_is_a_page_and_stale_ones_sign_in(browser: Browser, keys: Keys) -> None:
    assert browser.http.get("/ui/nothing").status_code == 404
    assert "There is no such page." in browser.http.get("/ui/nothing").text
    _, secret = keys.create(admin=True)
    answer = browser.http.get(DEEP, headers={"hx-request": "true"})
    assert answer.status_code == 401 and answer.headers["hx-redirect"] == f"/ui/sign-in?next={quote(DEEP)}"
    pressed = browser.http.post("/ui/jobs/retry", headers={"referer": str(browser.http.base_url.join(DEEP))})
    assert pressed.url.params["next"] == DEEP, "a button: back to the page with its form"
    assert browser.http.post("/ui/jobs/retry", headers={"referer": "http://["}).url.params.get("next") is None
    too_old = browser.http.post("/ui/sign-in", data={"csrf": "0" * 64, "key": secret, "next": DEEP})
    assert too_old.status_code == 401 and f'name="next" value="{escape(DEEP)}"' in too_old.text
    assert str(browser.sign_in(secret, DEEP).url).endswith(DEEP)


def test_a_second_tab_that_asks_for_a_key_goes_on_when_the_first_has_signed_in(browser: Browser, keys: Keys) -> None:
    _, secret = keys.create(name="a laptop", admin=True)
    second = browser.csrf()
    browser.sign_in(secret)
    pressed = browser.http.post("/ui/sign-in", data={"csrf": second, "key": secret, "next": DEEP})
    assert (pressed.status_code, str(pressed.url).endswith(DEEP)) == (200, True)
    assert browser.http.get("/ui/sign-in", params={"next": "/ui/log"}).url.path == "/ui/log"
    assert browser.http.get("/ui/sign-in", params={"next": "https://evil.example/"}).url.path == "/ui/"
    browser.http.cookies.clear()
    for cookie in ("\xff", "a" * 5_000, '"', ";;="):
        answer = browser.http.get("/ui/jobs", headers={b"cookie": f"stockpot_ui={cookie}".encode("latin-1")})
        assert answer.status_code == 200 and "Sign in" in answer.text, "a cookie that is none of ours"


def test_every_route_under_ui_goes_through_view() -> None:
    """So that none is without its check of who asks: but the files and signing in."""
    [_, mount] = routes()
    assert isinstance(mount, Mount)
    for route in mount.routes:
        assert isinstance(route, Route)
        assert route.name.startswith("ui") or route.path in {"/static/{name}", "/sign-in"}
