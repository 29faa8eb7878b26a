"""The dashboard's pages and buttons over HTTP: whose things they show, what they change, what they hide."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import unescape
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from sqlalchemy import text

from tests.batch_factories import write_file
from tests.factories import chat
from tests.fakes import Workplace
from tests.rig.gateway import Gateway
from tests.rig.waiting import eventually
from worker.dashboard import looks, view
from worker.dashboard.rendering import rendered
from worker.db import schema
from worker.producer.access import Access
from worker.producer.fleet import Fleet
from worker.producer.keys import Keys
from worker.producer.stockpot import Stockpot

SECRET_PROMPT = "the recipe of the house"
FAILS = "400"


@pytest.fixture
def keys(served: Workplace) -> Keys:
    return Keys(served.database)


class Person:
    """A browser without scripts, signed in with a key."""

    def __init__(self, gateway: Gateway, secret: str | None = None) -> None:
        self.http = httpx.Client(base_url=f"{gateway.url}/ui", follow_redirects=True, timeout=60)
        if secret is not None:
            assert self.press("/sign-in", form="/sign-in", key=secret).status_code == 200

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def see(self, path: str, **query: Any) -> str:
        """A page's text, as it is read."""
        return unescape(self.http.get(path, params=query or None).text)

    def press(self, path: str, *, form: str = "/", **fields: Any) -> httpx.Response:
        """Send a form with the token of the page `form`."""
        found = re.search(r'name="csrf" value="(\w+)"', self.http.get(form).text)
        return self.http.post(path, data={"csrf": "" if found is None else found[1], **fields})


@pytest.fixture
def admin(gateway: Gateway, keys: Keys) -> Iterator[Person]:
    with Person(gateway, keys.create(name="the chef", admin=True)[1]) as person:
        yield person


def ended(served: Workplace, script: str = "ok", *, model: str = "m", **options: Any) -> str:
    job = served.submit_body(chat(SECRET_PROMPT, model=f"{model}@sim:{script}"), **options)
    served.ended(job)
    return job


def test_a_tenant_sees_and_changes_only_what_is_its_own(gateway: Gateway, keys: Keys, served: Workplace) -> None:
    mine, theirs = ended(served, FAILS, tenant="acme"), ended(served, FAILS, tenant="beta")
    with Person(gateway, keys.create("acme")[1]) as person:
        for query in ({}, {"tenant": "beta"}, {"status": "failed"}, {"text": theirs[:20]}):
            listed = person.see("/jobs", **query)
            assert theirs not in listed
        assert mine in person.see("/jobs")
        assert person.http.get("/rates/hour").status_code == 403 and "In flight" not in person.see("/")
        assert "Not found" in person.see(f"/jobs/{theirs}")
        assert person.http.get(f"/jobs/{theirs}/events").status_code == 404
        for path in (f"/jobs/{theirs}/retry", f"/jobs/{theirs}/cancel"):
            assert person.press(path, form="/").status_code == 404
        assert person.press("/jobs/retry", job=f"beta/{theirs}").status_code == 404
        assert person.press("/playground/run", tenant="beta", model="m", prompt="hi").status_code == 404
        assert served.get(theirs).status == "failed"
        assert person.press(f"/jobs/{mine}/retry").status_code == 200


def test_a_reader_is_shown_no_prompt_no_answer_and_no_button(gateway: Gateway, keys: Keys, served: Workplace) -> None:
    done, failed = ended(served, tenant="acme"), ended(served, FAILS, tenant="acme")
    answer, words = served.get(done).text, served.get(failed).error_message
    assert answer and words
    with Person(gateway, keys.create("acme", read_only=True)[1]) as person:
        for path in ("/", "/jobs", f"/jobs/{done}", f"/jobs/{failed}"):
            seen = person.see(path)
            assert SECRET_PROMPT not in seen and answer not in seen and words not in seen
            assert "Retry" not in seen
        assert "Prompts and answers are hidden" in person.see(f"/jobs/{done}")
        for path in ("/playground", f"/jobs/{done}/events", "/jobs/change?do=retry"):
            assert person.http.get(path).status_code == 403
        assert person.press(f"/jobs/{failed}/retry").status_code == 403
    assert served.get(failed).status == "failed"


def test_viewers_who_may_the_same_share_one_rendering_and_others_have_their_own(
    gateway: Gateway, keys: Keys, served: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what refreshes itself: twenty viewers of a page would have it put into words twenty times a second."""
    failed, theirs = ended(served, FAILS, tenant="acme"), ended(served, FAILS, tenant="beta")
    words = served.get(failed).error_message
    assert words
    made: list[str] = []

    def counted(template: str, **values: Any) -> str:
        made.append(template)
        return rendered(template, **values)

    with ExitStack() as stack:
        for name in ("SECONDS", "LEISURE", "LONGEST"):  # a look of the same minute, on a machine that is slow, too
            monkeypatch.setattr(looks, name, 60.0 if name != "LEISURE" else 1e9)
        secrets = [keys.create("acme")[1] for _ in range(3)]
        secrets += [keys.create("acme", read_only=True)[1], keys.create("beta")[1], keys.create(admin=True)[1]]
        people = [stack.enter_context(Person(gateway, secret)) for secret in secrets]
        monkeypatch.setattr(view, "rendered", counted)
        part = {"hx-request": "true"}
        parts = [unescape(person.http.get("/jobs", headers=part).text) for person in people]
        overviews = [person.http.get("/", headers=part).text for person in people[:3]]
    assert parts[0] == parts[1] == parts[2] and overviews[0] == overviews[1] == overviews[2]
    assert all((words in part, failed in part) == (True, True) for part in (parts[0], parts[5]))
    assert words not in parts[3] and failed in parts[3]
    assert failed not in parts[4] and theirs in parts[4] and theirs in parts[5] and theirs not in parts[0]
    assert made.count("jobs.html") == 4 and made.count("overview.html") == 1


def test_what_a_filter_shows_is_counted_before_it_is_changed(admin: Person, keys: Keys, served: Workplace) -> None:
    failed = [ended(served, FAILS, metadata={"team": "a"}) for _ in range(3)]
    other = ended(served, FAILS, metadata={"team": "b"})
    page = admin.see("/jobs/change", do="retry", status="failed", metadata="team=a")
    assert "Retry 3 jobs" in page and all(f"default/{one}" in page for one in failed) and other not in page
    later = ended(served, FAILS, metadata={"team": "a"})
    answer = admin.press("/jobs/retry", job=[f"default/{one}" for one in failed])
    assert "3 jobs queued again." in answer.text
    for one in failed:
        served.ended(one)
        assert len(served.get(one).attempt_log) == 2
    assert [len(served.get(one).attempt_log) for one in (other, later)] == [1, 1]
    assert "job=" not in admin.see("/log") and "3 done, 0 refused" in admin.see("/log")


def test_pages_are_found_by_every_filter(admin: Person, served: Workplace) -> None:
    job = ended(served, FAILS, metadata={"team": "søk & co"}, lane="bulk")
    ended(served)
    for query in (
        {"status": "failed"},
        {"lane": "bulk"},
        {"error_class": "invalid_request"},
        {"metadata": "team=søk & co"},
        {"text": job[:24]},
        {"model": served.get(job).model, "since": "1h", "tenant": "default"},
    ):
        assert admin.see("/jobs", **query).count('<tr id="job_') == 1 and job in admin.see("/jobs", **query)
    assert admin.http.get("/jobs", params={"text": job}).url.path == f"/ui/jobs/{job}"
    assert "No job matches" in admin.see("/jobs", status="expired")
    for query in ({"status": "x"}, {"since": "yesterday"}, {"metadata": "team"}, {"error_class": "' OR 1=1"}):
        assert admin.http.get("/jobs", params=query).status_code == 400


def test_every_button_leaves_a_line_of_who_and_what(admin: Person, keys: Keys, served: Workplace) -> None:
    job = ended(served, FAILS)
    admin.press(f"/jobs/{job}/retry")
    served.ended(job)
    assert admin.press(f"/jobs/{job}/cancel").status_code == 409
    refused, done = Access(served.database).actions()
    assert (done.who, done.role, done.action, done.target, done.outcome) == ("the chef", "admin", "retry", job, "done")
    assert (refused.action, refused.outcome is not None and refused.outcome[:8]) == ("cancel", "refused:")
    assert "the chef" in admin.see("/log") and job in admin.see("/log")


def test_a_key_with_limits_does_not_get_around_them_here(gateway: Gateway, keys: Keys, served: Workplace) -> None:
    with Person(gateway, keys.create("acme", rpm=1)[1]) as person:
        assert person.press("/playground/run", model="m", prompt="hi").status_code == 403
    with Person(gateway, keys.create("acme", models=["openai/gpt-4o-mini"])[1]) as person:
        assert person.press("/playground/run", model="m", prompt="hi").status_code == 404


def test_the_playground_makes_a_job_and_says_what_is_wrong(admin: Person, served: Workplace) -> None:
    answer = admin.press(
        "/playground/run", model="openai/gpt-4o-mini", prompt="Why?", system="Be brief", max_tokens="9"
    )
    job = str(answer.url.params["job"])
    assert served.ended(job).status == "completed" and job in answer.text and "Be brief" in answer.text
    for fields in ({"temperature": "warm"}, {"max_tokens": "1.5"}):
        given = {"model": "m", "prompt": "x", **fields}
        assert admin.press("/playground/run", **given).status_code == 400
    assert "out of reach" not in admin.see("/playground") and "openai/gpt-4o-mini" in admin.see("/playground")


def test_rates_of_what_is_not_a_span_are_not_there(admin: Person, served: Workplace) -> None:
    ended(served)
    assert admin.http.get("/rates/hour").json()["step"] == 60
    assert admin.http.get("/rates/year").status_code == 404


def test_routes_are_paused_and_go_on_and_only_an_admin_sees_them(
    admin: Person, gateway: Gateway, keys: Keys, served: Workplace
) -> None:
    job = ended(served)
    model = served.get(job).model
    assert model in admin.see("/routes")
    assert "by the chef in the dashboard" in admin.press("/routes/pause", route=model).text
    assert f"{model} is resumed." in unescape(admin.press("/routes/resume", route=model).text)
    with Person(gateway, keys.create("acme")[1]) as operator:
        for path in ("/routes", "/workers", "/keys"):
            assert operator.http.get(path).status_code == 403
        for path in ("/routes/pause", "/workers/drain", "/keys/make", "/keys/revoke"):
            assert operator.press(path, form="/").status_code == 403


def test_routes_show_what_was_refused_and_the_limit_of_each_minute(admin: Person, served: Workplace) -> None:
    """As the workers write it: here the one worker ends, and writes what it has."""
    for _ in range(3):
        ended(served)
    model = served.get(ended(served, "429,ok")).model
    served.engines[0].drain()
    rates = Fleet(served.database).route_rates()
    assert (rates[model].calls, rates[model].refused, max(rates[model].limits) > 0) == (2, 1, True)
    shown = admin.see("/routes")
    assert "1 of 2 calls of the last hour got a 429" in shown and "50.0 %" in shown
    assert f"to {max(rates[model].limits)}" in shown


def test_money_shows_the_days_budget_as_a_line_and_what_reconcile_found(admin: Person, served: Workplace) -> None:
    jobs = [served.get(ended(served, model="openai/gpt-4o-mini")) for _ in range(2)]
    spent = float(sum((job.cost_usd or Decimal(0) for job in jobs), Decimal(0)))
    with Stockpot(served.settings) as pot:
        pot.budgets.set(2 * spent, period="day", all_tenants=True)
        assert "<line " in admin.see("/costs") and "the line" in admin.see("/costs")
        pot.budgets.set(1_000, period="day", all_tenants=True)
    served.database.write(
        lambda conn: conn.execute(
            text("UPDATE attempts SET reconciled = 'orphaned' WHERE job_id = :id"), {"id": jobs[0].id}
        )
    )
    found = Fleet(served.database).reconciled(tenant=None)
    assert {one.mark: one.calls for one in found}["orphaned"] == 1
    assert sum(one.calls for one in Fleet(served.database).reconciled(tenant="default")) == 2
    assert Fleet(served.database).reconciled(tenant="another") == []


def test_lists_come_from_the_replica_and_a_job_from_the_database(served: Workplace, tmp_path: Path, keys: Keys) -> None:
    """The replica here is a database that has none of the jobs."""
    job = ended(served)
    behind = f"sqlite:///{tmp_path / 'replica.db'}"
    schema.upgrade(behind)
    with (
        Gateway(served.settings.model_copy(update={"dashboard_database_url": behind})) as gateway,
        Person(gateway, keys.create(name="the chef", admin=True)[1]) as admin,
    ):
        assert job not in admin.see("/jobs")
        assert "completed" in admin.see(f"/jobs/{job}")


def test_a_batch_that_ends_too_late_says_by_how_much(admin: Person, served: Workplace, tmp_path: Path) -> None:
    """At the rate of its first lines it is over after its deadline."""
    write_file(tmp_path / "prompts.jsonl", 400, model="m@sim:slow=5")
    with Stockpot(served.settings) as pot:
        batch = pot.batches.submit(
            tmp_path / "prompts.jsonl", max_in_flight=1, finish_by=datetime.now(UTC) + timedelta(seconds=3)
        ).id
        eventually(lambda: "after its deadline" in admin.see(f"/batches/{batch}"), 60, "it is late")
        pot.batches.cancel(batch)


def test_money_is_exact_to_the_ledger(admin: Person, served: Workplace) -> None:
    jobs = [served.get(ended(served, model="openai/gpt-4o-mini", metadata={"team": "a"})) for _ in range(3)]
    spent = sum((job.cost_usd or Decimal(0) for job in jobs), Decimal(0))
    for query in ({}, {"by": "tenant"}, {"tag": "team", "days": "7"}):
        assert f'title="{spent.normalize():f} US dollars"' in admin.see("/costs", **query)


def test_a_key_is_shown_once_and_revoked(admin: Person, gateway: Gateway, served: Workplace) -> None:
    made = admin.press("/keys/make", name="a script", tenant="acme", role="read_only", rpm="60", budget_usd="2.5")
    found = re.search(r"sk-sp-[\w-]{43}", made.text)
    assert found is not None and found[0] not in admin.see("/keys") and found[0] not in admin.see("/log")
    key = next(one for one in Keys(served.database).list(tenant="acme"))
    assert (key.read_only, key.rpm, key.budget_usd) == (True, 60, Decimal("2.5"))
    with Person(gateway, found[0]) as reader:
        assert "read only" in reader.see("/")
        admin.press("/keys/revoke", key=key.id)
        assert "Sign in" in reader.see("/")
    for fields in ({"rpm": "many"}, {"role": "root"}):
        assert admin.press("/keys/make", **fields).status_code == 400


def test_endpoints_are_added_rotated_and_replayed(admin: Person, served: Workplace) -> None:
    made = admin.press("/webhooks/add", url="https://example.com/hooks", description="the shop")
    [endpoint] = re.findall(r"Endpoint ([\w]+)", made.text)[:1]
    first = re.search(r"whsec_[^<]+", made.text)
    second = re.search(r"whsec_[^<]+", admin.press("/webhooks/rotate", endpoint=endpoint).text)
    assert first is not None and second is not None and first[0] != second[0] not in admin.see("/webhooks")
    assert "It is disabled" in admin.press("/webhooks/disable", endpoint=endpoint).text
    assert "It is enabled" in admin.press("/webhooks/enable", endpoint=endpoint).text
    assert "0 events are delivered again" in admin.press("/webhooks/replay").text
    assert admin.press("/webhooks/add", url="file:///etc/passwd").status_code == 400


def test_a_worker_is_drained(admin: Person, served: Workplace) -> None:
    owner = served.engines[0].owner
    assert owner in admin.see("/workers")
    assert "finishes what it has and ends" in admin.press("/workers/drain", owner=owner).text
    assert admin.press("/workers/drain", owner="nobody").status_code == 404
