"""The real command line in a fresh home, without a worker: submit, look, change, and every way to get it wrong."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.rig.ports import free_port
from tests.rig.procs import Process
from worker import embedded

STOCKPOT = Path(sys.executable).with_name("stockpot")
MODEL = "openai/gpt-4o-mini"


@dataclass(frozen=True)
class Said:
    """What a command wrote, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, object]:
        """Stdout, which must be one JSON object and nothing else."""
        answer = json.loads(self.out)
        assert isinstance(answer, dict)
        return answer

    @property
    def lines(self) -> list[dict[str, object]]:
        """Stdout, which must be JSON objects, one per line."""
        return [json.loads(line) for line in self.out.splitlines()]


Cli = Callable[..., Said]


@pytest.fixture
def cli(
    home: Path, stockpot_env: Callable[..., dict[str, str]], launch: Callable[..., Process], tmp_path: Path
) -> Iterator[Cli]:
    """Runs `stockpot …` to its end as a user would, in one home; the settings are keywords."""
    count = iter(range(1_000))

    def run(*args: str | Path, stdin: str | None = None, **settings: object) -> Said:
        process = launch(
            [STOCKPOT, *args], name=f"cli-{next(count)}", env=stockpot_env(**settings), stdin=stdin, cwd=tmp_path
        )
        code = process.wait()
        said = Said(code, process.stdout.read_text(), process.stderr.read_text())
        assert "Traceback" not in said.err, said.err
        return said

    yield run
    embedded.stop(home)


def test_a_job_is_submitted_shown_listed_cancelled_and_retried(cli: Cli) -> None:
    """One life without a worker; stdout is data, stderr is words."""
    done = cli("submit", "-m", MODEL, "hello", "--json", "--metadata", "team=red", "--idempotency-key", "one")
    assert done.code == 0 and done.json.keys() == {"id", "status"} and done.json["status"] == "queued"
    job = str(done.json["id"])
    again = cli("submit", "-m", MODEL, "hello", "--idempotency-key", "one")
    assert again.out.strip() == job and "submitted before" in again.err
    shown = cli("show", job, "--json").json
    assert shown["metadata"] == {"team": "red"} and shown["endpoint"] == "/v1/chat/completions"
    assert shown["attempt_log"] == [] and {"response", "usage", "cost_usd", "error"} <= shown.keys()
    assert job in cli("show", job).out
    assert [one["id"] for one in cli("list", "--json").lines] == [job]
    assert cli("list", "--json", "--status", "failed").lines == []
    assert cli("cancel", job, "--json").json == {"id": job, "status": "cancelled"}
    assert cli("watch", job).code == 1
    events = cli("watch", job, "--json")
    assert events.code == 1 and events.lines[-1]["type"] == "job.cancelled"
    retried = cli("retry", "--where", "status=cancelled,since=1h", "--json")
    assert (retried.code, retried.lines) == (0, [{"id": job, "status": "queued"}])
    assert cli("show", job, "--json").json["status"] == "queued"
    assert cli("usage", "--json").lines == []


def test_an_id_may_be_its_beginning_or_come_from_another_command(cli: Cli) -> None:
    """One that several have names them; `-` with nothing on stdin says what it reads."""
    first, second = (cli("submit", "-m", MODEL, text).out.strip() for text in ("one", "two"))
    assert cli("show", "-", "--json", stdin=f"{first}\n").json["id"] == first
    assert cli("cancel", second[:-4]).out.strip() == "cancelled"
    said = cli("show", first[:8])
    assert said.code == 2 and first in said.err and second in said.err
    said = cli("batch", "status", "batch_ff")
    assert said.code == 2 and "none whose id begins so" in said.err
    said = cli("webhooks", "show", "-", stdin="")
    assert said.code == 2 and "nothing came" in said.err


def test_requests_come_from_files_and_stdin(cli: Cli, tmp_path: Path) -> None:
    """A bare body, a whole job, and a prompt; -m wins, --stream is written into the body."""
    body = {"model": "m/one", "input": "hi"}
    (tmp_path / "body.json").write_text(json.dumps(body))
    first = str(cli("submit", "--request", "body.json", "-m", MODEL, "--json").json["id"])
    shown = cli("show", first, "--json").json
    assert (shown["endpoint"], shown["model"]) == ("/v1/responses", MODEL)
    whole = json.dumps({"body": body, "tenant": "acme", "lane": "bulk"})
    second = str(cli("submit", "--request", "-", "--stream", "--json", stdin=whole).json["id"])
    assert cli("show", second).code == 2
    assert cli("show", second, "--tenant", "acme", "--json").json["lane"] == "bulk"
    assert cli("show", second[:-1], "-A", "--json").json["tenant"] == "acme"
    assert {one["tenant"] for one in cli("list", "-A", "--json").lines} == {"default", "acme"}
    third = str(cli("submit", "-m", MODEL, "-", "--json", stdin="from a pipe").json["id"])
    assert cli("show", third, "--json").json["status"] == "queued"


def test_every_problem_of_a_request_is_told(cli: Cli) -> None:
    """Not only the first."""
    said = cli("submit", "--request", "-", stdin='{"model": 3, "messages": [{"role": "user"}], "temperature": "hot"}')
    assert said.code == 2 and "model" in said.err and "temperature" in said.err


def test_an_unknown_setting_and_a_taken_key_are_exit_code_2(cli: Cli) -> None:
    """The setting is named; so is the job that holds the key."""
    said = cli("list", STOCKPOT_LEASE_SECOND="5")
    assert said.code == 2 and "STOCKPOT_LEASE_SECOND" in said.err
    job = cli("submit", "-m", MODEL, "one", "--idempotency-key", "k").out.strip()
    said = cli("submit", "-m", MODEL, "two", "--idempotency-key", "k")
    assert said.code == 2 and job in said.err


def test_an_unreachable_database_is_exit_code_3_and_shows_no_password(cli: Cli) -> None:
    """Every command that needs it says where it looked."""
    url = f"postgresql://me:hunter2@127.0.0.1:{free_port()}/none"
    for args in (["list"], ["submit", "-m", MODEL, "x"], ["db", "check"], ["db", "upgrade"]):
        said = cli(*args, database_url=url)
        assert (said.code, said.out) == (3, "") and "unreachable" in said.err and "hunter2" not in said.err


def test_only_a_new_sqlite_file_is_migrated_by_itself(cli: Cli, empty_database_url: str) -> None:
    """An empty PostgreSQL is somebody's decision: exit code 3 names the command, which mends it."""
    said = cli("list", database_url=empty_database_url)
    if empty_database_url.startswith("sqlite"):
        assert said.code == 0
    else:
        assert said.code == 3 and "stockpot db upgrade" in said.err
        assert cli("db", "check", database_url=empty_database_url).code == 1
        assert cli("db", "upgrade", database_url=empty_database_url).code == 0
        assert cli("list", database_url=empty_database_url).code == 0
    state = cli("db", "check", "--json", database_url=empty_database_url)
    assert state.code == 0 and state.json["ok"] is True and state.json["current"] == state.json["head"]


def test_ctrl_c_leaves_the_job_running_and_tells_how_to_watch_it_again(
    cli: Cli, launch: Callable[..., Process], stockpot_env: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    """Exit code 130, and the job is where it was. The hint about a missing worker proves that it was watching."""
    job = cli("submit", "-m", MODEL, "hello").out.strip()
    watching = launch([STOCKPOT, "watch", job], name="watching", env=stockpot_env(), cwd=tmp_path)
    watching.wait_for_line("no worker is running")
    watching.send(signal.SIGINT)
    assert watching.wait() == 130
    assert f"stockpot watch {job}" in watching.stderr.read_text() and "Traceback" not in watching.output
    assert cli("show", job, "--json").json["status"] == "queued"


def test_waiting_ends_with_the_timeout_and_the_job_goes_on(cli: Cli) -> None:
    """Exit code 1; with --json the job as it stands is on stdout."""
    said = cli("submit", "-m", MODEL, "hello", "--wait", "--timeout", "0.5", "--json")
    assert said.code == 1 and said.json["status"] == "queued" and "goes on" in said.err


def test_doctor_says_what_is_wrong_and_how_to_mend_it(cli: Cli) -> None:
    """An upstream that nobody listens at is exit code 3; the database and the embedded Valkey are fine."""
    upstream = f"http://127.0.0.1:{free_port()}/v1"
    said = cli("doctor", "--json", upstream_url=upstream)
    found = {check["name"]: check for check in said.json["checks"]}  # type: ignore[attr-defined]
    assert said.code == 3 and said.json["ok"] is False
    assert found["upstream"]["outcome"] == "unreachable" and found["upstream"]["mend"]
    for name in ("database", "schema", "database writes", "redis", "redis version", "redis eviction", "broker"):
        assert found[name]["outcome"] == "ok", found[name]


def test_up_without_a_key_says_what_to_do(cli: Cli) -> None:
    """Exit code 2 before anything is started."""
    said = cli("up", STOCKPOT_API_KEY=None)
    assert said.code == 2 and "--simulate" in said.err and "AIMLAPI_API_KEY" in said.err


def test_webhook_endpoints_are_added_listed_and_rotated(cli: Cli) -> None:
    """A secret is shown when it is made and never again; a URL that may not be reached is refused."""
    added = cli("webhooks", "add", "https://example.com/hook", "--event", "job.completed", "--json").json
    listed = cli("webhooks", "endpoints", "--json")
    assert listed.lines[0]["id"] == added["id"] and str(added["secret"]) not in listed.out
    rotated = cli("webhooks", "rotate", str(added["id"]), "--json").json
    assert rotated["secret"] != added["secret"]
    assert cli("webhooks", "add", "ftp://example.com").code == 2
    assert cli("webhooks", "rotate", "we_none").code == 2
    assert cli("webhooks", "replay", "evt_none").code == 2
    assert cli("webhooks", "events", "--json").out == cli("webhooks", "dead", "--json").out == ""


def test_webhook_endpoints_are_changed_tested_and_deleted(cli: Cli) -> None:
    """Without a worker a test waits in the outbox; what is deleted is dead, and filters find it."""
    one = str(cli("webhooks", "add", "https://example.com/hook", "--description", "ops", "--json").json["id"])
    assert cli("webhooks", "update", one, "--event", "job.failed", "--url", "https://example.com/new").code == 0
    listed = cli("webhooks", "endpoints", "--json").lines[0]
    assert (listed["url"], listed["events"]) == ("https://example.com/new", ["job.failed"])
    assert listed["description"] == "ops" and "ops" in cli("webhooks", "endpoints").out
    assert cli("webhooks", "update", one).code == cli("webhooks", "update", one, "--event", "endpoint.test").code == 2
    assert cli("webhooks", "update", one, "--event", "job.failed", "--all-events").code == 2
    tested = cli("webhooks", "test", one, "--timeout", "0", "--json")
    assert tested.code == 1 and tested.json["status"] == "pending" and tested.json["attempt_log"] == []
    assert cli("webhooks", "disable", one).code == cli("webhooks", "enable", one).code == 0
    (event,) = cli("webhooks", "dead", "--endpoint", one, "--type", "endpoint.test", "--json").lines
    assert cli("webhooks", "dead", "--type", "job.failed", "--json").out == ""
    assert cli("webhooks", "show", str(event["id"]), "--json").json == event
    assert "disabled: manual" in cli("webhooks", "show", str(event["id"])).out
    for wrong in ([], ["--endpoint", one], [str(event["id"]), "--all-dead"], ["--all-dead", "--status", "dead"]):
        assert cli("webhooks", "replay", *wrong).code == 2
    assert cli("webhooks", "replay", "--all-dead", "--endpoint", "we_none", "--json").out == ""
    assert cli("webhooks", "replay", "--all-dead", "--endpoint", one, "--json").json["id"] == event["id"]
    assert cli("webhooks", "reseal", "--json").json == {"resealed": 0}
    assert cli("webhooks", "delete", one).code == 0
    assert cli("webhooks", "endpoints", "--json").out == ""
    assert cli("webhooks", "delete", one).code == cli("webhooks", "show", "evt_none").code == 2
