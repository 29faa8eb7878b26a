"""Each command that a page shows is run as it stands there, with real ids in its placeholders; what is not run is listed with the reason.

The stage is what a newcomer has: `stockpot up --simulate` in a directory of his own, payloads encrypted, a receiver of webhooks.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from tests.pages import PAGES, ROOT, command_of, elsewhere, texts
from tests.rig.hookd import HookReceiver
from tests.rig.postgres import PostgresServer
from tests.rig.procs import Process
from tests.rig.waiting import eventually
from worker.webhooks.signing import new_secret

BIN = Path(sys.executable).parent
PATIENCE = 240.0

#: Commands that do not end by themselves, and the test that runs each.
ENDLESS = {
    "up": "tests/journey/test_cli_up.py",
    "serve": "tests/journey/test_gateway_page.py",
    "worker": "tests/journey/test_cli_worker.py",
    "worker --detach": "tests/journey/test_celery_words.py",
    "simulate": "tests/integration/test_simulator_process.py",
    "webhooks listen": "tests/journey/test_cli_webhooks.py",
}
#: Commands that need an option which their page names in the sentence around them.
SENTENCES = {"db copy", "webhooks update ID", "webhooks replay"}
#: A page that is run whole by a test of its own, since its commands follow one another.
STORIES = {"overnight.md": "tests/journey/test_overnight.py"}
#: Commands that need the workers ended, in this order.
AFTER = ("db compact", "purge --older-than 90d", "db copy --to", "db copy --reopen")
#: Commands that exit with another code than 0 on this stage, and why.
CODES = {
    "status": (0, 1),
    "doctor": (0, 1),
}  # a failed job of the stage needs a person; its disk is full, its clock is off

#: Commands of other programs: the test that runs them, or why none does.
ELSEWHERE = {
    "make demo": "tests/journey/test_demo.py",
    "make": "the target exists (below)",
    "python -m tests.python_reference": "tests/contract/test_python_reference.py",
    "python -m": "the module takes these options (below)",
    "STOCKPOT_TEST_FAULTS=off": "tests/integration/test_rig_guards.py",
    'python -c "import secrets': "run below",
    "openssl rand": "run below",
    'python3 -c "import sqlite3': "run below",
    "python3 - <<": "tests/journey/test_overnight.py",
    "pg_dump": "tests/faults/test_restore.py",
    "pg_restore": "tests/faults/test_restore.py",
    "STOCKPOT_UPSTREAM_URL=http://127.0.0.1:8100/v1": "tests/journey/test_cli_up.py",
    "createuser": "not run: the suite's PostgreSQL has one user; ops/rehearsals/newcomer.md did",
    "valkey-server": "not run: the suite starts its own (tests/rig/valkey.py)",
    "STOCKPOT_HTTP_PORT=": "tests/journey/test_cli_worker.py",
    "prometheus": "its configuration is checked below; ops/rehearsals/newcomer.md ran it",
    "curl -s http://127.0.0.1:9090": "not run: Prometheus' own; ops/rehearsals/newcomer.md did",
    "docker compose": "not run: no container engine; make lint checks the file by its schema, tests/contract/test_image.py by its text",
    "docker build": "tests/journey/test_image_run.py builds the same file with buildah",
    "helm install": "not run: no cluster; make lint renders, lints and validates the chart with these values",
    "kubectl": "not run: no cluster",
    "systemctl": "not run: no systemd in a container; tests/contract/test_image.py reads the units",
    "redis-cli del": "not run: it is for Redis of a version before 2026-11-26",
    "pip install": "not run: it needs a package index; tests/contract/test_wheel.py installs the wheel",
}


def shows() -> Iterator[tuple[str, str]]:
    """Each command once, with the first page that shows it."""
    seen = set()
    for page in PAGES:
        for text in texts(page) if page.name not in STORIES else ():
            if text not in seen:
                seen.add(text)
                yield page.name, text


def is_name_only(text: str) -> bool:
    """Whether a page only names a command: without the arguments that it needs, it is nothing to be run."""
    numbers = re.sub(r"\b(USD|N)\b", "5", text.replace("[", "").replace("]", ""))
    command, rest = command_of(shlex.split(numbers))
    assert command is not None, text
    if isinstance(command, click.Group) and not command.invoke_without_command:
        return True
    try:
        command.make_context(str(command.name), [word for word in rest if word != "--help"])
    except click.MissingParameter:
        return "--help" not in rest
    except click.BadOptionUsage as error:
        return "requires an argument" in str(error)
    except click.UsageError:
        return False
    return text in SENTENCES


def is_endless(text: str) -> bool:
    """Whether a command goes on until it is stopped."""
    words = [word for word in text.split() if word.isalpha()]
    return " ".join(words[:1]) in ENDLESS or " ".join(words[:2]) in ENDLESS or text in ENDLESS


class Desk:
    """A directory with a running `stockpot up --simulate`, and an id for each placeholder."""

    def __init__(self, env: dict[str, str], place: Path, hook: str) -> None:
        self.env, self.place = env, place
        self.ids: dict[str, str] = {}
        self._hook = hook

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        """Run a line of a shell's."""
        return subprocess.run(
            ["bash", "-c", text],
            env=self.env,
            cwd=self.place,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def has(self, text: str) -> str:
        """What a command of the stage prints."""
        done = self.run(f"stockpot {text}")
        assert done.returncode in {0, 1}, f"{text}\n{done.stdout}{done.stderr}"
        return done.stdout

    def furnish(self) -> None:
        """One of each thing that a command may name."""
        lines = []
        for number in range(6):
            body = {"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": f"soup {number}"}]}
            lines.append({"custom_id": f"s{number}", "method": "POST", "url": "/v1/chat/completions", "body": body})
        (self.place / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        job = json.loads(self.has(f"submit -m openai/gpt-4o-mini --wait --json --webhook {self._hook} hello"))["id"]
        self.has("submit -m openai/gpt-4o-mini@sim:400 --wait hello")
        batch = self.has("batch submit prompts.jsonl --wait --output first.jsonl --json")
        found = re.search(r"batch_\w+", batch)
        assert found, batch
        (self.place / "held.jsonl").write_text((self.place / "prompts.jsonl").read_text())
        held = re.search(r"batch_\w+", self.has("batch submit held.jsonl --again --max-cost 0.0000001 --json"))
        assert held
        (self.place / "first.jsonl").unlink(missing_ok=True)
        self.has(f"webhooks add {self._hook}")
        self.has("keys create --tenant acme")
        event = eventually(lambda: self.has("webhooks events --json"), what="an event")
        self.ids = {
            "JOB": job,
            "BATCH": found[0],
            "HELD": held[0],
            "ENDPOINT": json.loads(self.has("webhooks endpoints --json").splitlines()[0])["id"],
            "EVENT": json.loads(event.splitlines()[0])["id"],
            "KEY": json.loads(self.has("keys list --json").splitlines()[0])["id"],
            "ROUTE": "openai/gpt-4o-mini",
            "MODEL": "openai/gpt-4o-mini",
            "OWNER": json.loads(self.has("workers --json").splitlines()[0])["owner"],
        }

    def filled(self, text: str) -> str:
        """A command with our ids in its placeholders."""
        kind = "ENDPOINT" if text.startswith("webhooks") else "HELD" if text.startswith("batch resume") else "BATCH"
        ours = self.ids | {"ID": self.ids[kind]}
        if text.startswith("cancel "):
            long = self.has("submit -m openai/gpt-4o-mini@sim:slow=1000+tokens=100 --json hello")
            ours["JOB"] = json.loads(long)["id"]
        ours |= {"USD": "5", "TENANT": "acme", "T": "acme", "N": "50", "A,B": "a,b", "COMMAND": "status"}
        ours |= {"DATE": f"{datetime.now(UTC):%Y-%m-%d}", "batch_X": ours["BATCH"]}
        text = text.replace("metadata.KEY", "metadata.team").replace("[--remove]", "").replace("[", "").replace("]", "")
        text = re.sub(r"^submit X", "submit -m openai/gpt-4o-mini hello", text)
        text = re.sub(r"https://example\.com/\w+", self._hook, text)
        if text.startswith("webhooks add"):
            text += "?second=1"
        text = re.sub(r"--offset \d+", "--offset 6", text)  # where the stage's file of six lines ends
        for name, value in ours.items():
            text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", value, text)
        return text + " --overwrite" * ("-o answers.jsonl" in text and "--follow" not in text)


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_every_command_of_the_pages_runs(
    launch: Callable[..., Process],
    stockpot_env: Callable[..., dict[str, str]],
    postgres_server: PostgresServer,
    tmp_path: Path,
) -> None:
    """No usage error, no traceback, and the exit code that the page promises; each is named with its page."""
    env = stockpot_env(
        STOCKPOT_API_KEY=None,
        payload_key="a payload key of this test that is long enough",
        secret_key="a secret key of this test that is long enough",
        gateway_port="0",
        watchdog_seconds="0",
    )
    env["PATH"] = f"{BIN}:{env.get('PATH', os.environ['PATH'])}"
    moved_to = postgres_server.create_database().replace("+psycopg", "")
    with HookReceiver([new_secret()]) as hooks:
        up = launch([BIN / "stockpot", "up", "--simulate"], name="up", env=env, cwd=tmp_path)
        up.wait_for_line(r"^Ready\.", timeout=120)
        desk = Desk(env, tmp_path, hooks.url("/ok"))
        desk.furnish()
        told = [(page, text) for page, text in shows() if not is_name_only(text) and not is_endless(text)]
        last = [one for one in told if one[1].startswith(AFTER)]
        # What takes something away comes behind what needs it.
        ruinous = re.compile(r"delete|revoke|cancel|drain|purge|disable|pause")
        first = sorted((one for one in told if one not in last), key=lambda one: bool(ruinous.search(one[1])))
        complaints = [_complaint(desk, *one) for one in first]
        up.send(signal.SIGINT)
        assert up.wait(120) == 0, up.tail()
        for prefix in AFTER:
            for page, text in last:
                if text.startswith(prefix):
                    moved = text.replace("postgresql://stockpot@db.example/stockpot", moved_to)
                    complaints.append(_complaint(desk, page, moved))
    assert len(complaints) > 60
    wrong = [one for one in complaints if one]
    assert not wrong, "\n\n".join(wrong)


def _complaint(desk: Desk, page: str, text: str) -> str | None:
    filled = desk.filled(text)
    done = desk.run(f"stockpot {filled}")
    allowed = next((codes for prefix, codes in CODES.items() if text.startswith(prefix)), (0,))
    if done.returncode in allowed and "Traceback" not in done.stdout + done.stderr:
        return None
    return f"{page}: stockpot {filled}\nexited {done.returncode}\n{done.stdout[-600:]}{done.stderr[-600:]}"


def test_what_does_not_end_is_run_by_a_test_of_its_own() -> None:
    """The list names tests that are there, and nothing that no page shows."""
    told = [text for _, text in shows()]
    for command, test in (ENDLESS | STORIES).items():
        assert (ROOT / test).is_file(), test
        assert command in STORIES or any(text.startswith(command) for text in told), command


def foreign() -> list[tuple[str, str]]:
    """Each command of another program, with its page."""
    return sorted({(command, page.name) for page in PAGES for command in elsewhere(page)})


def test_commands_of_other_programs_are_run_or_named_as_not_run() -> None:
    found = foreign()
    assert len(found) > 20
    unlisted = [one for one in found if not one[0].startswith(tuple(ELSEWHERE))]
    assert unlisted == []
    left_over = [prefix for prefix in ELSEWHERE if not any(command.startswith(prefix) for command, _ in found)]
    assert left_over == []
    for words in ELSEWHERE.values():
        for test in re.findall(r"tests/\w+/\w+\.py", words):
            assert (ROOT / test).is_file(), test


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("config", ["machine.yml", "prometheus.yml"])
def test_prometheus_takes_the_configuration_that_the_pages_name(config: str, tmp_path: Path) -> None:
    """With the rules where it looks for them: of compose they are mounted."""
    text = (ROOT / "ops/prometheus" / config).read_text(encoding="utf-8")
    rules = ROOT / "ops/helm/stockpot/files/alerts.yaml"
    (tmp_path / "checked.yml").write_text(re.sub(r"rule_files: .*", f"rule_files: [{rules}]", text))
    if config == "machine.yml":
        [named] = re.findall(r"rule_files: \[(.*)\]", text)
        assert (ROOT / "ops/prometheus" / named).resolve() == rules
    done = subprocess.run(
        ["promtool", "check", "config", tmp_path / "checked.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "command", sorted({command for command, _ in foreign() if command.startswith("make ")}), ids=lambda one: one
)
def test_a_target_of_make_that_a_page_shows_is_there(command: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    words = shlex.split(command)[1:]
    assert [word for word in words if "=" not in word and word not in targets] == []


MODULES = sorted({one for one, _ in foreign() if one.startswith("python -m ") and not one.endswith("reference")})


@pytest.mark.slow
@pytest.mark.parametrize("command", MODULES, ids=lambda one: one.replace("\n", " "))
def test_a_module_that_a_page_shows_takes_its_options(command: str) -> None:
    module, *options = shlex.split(command)[2:]
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [option for option in options if option.startswith("--") and option not in done.stdout] == []


def test_one_line_programs_of_the_pages_do_what_they_are_there_for(sqlite_url: str, tmp_path: Path) -> None:
    """A key that is long enough; a backup of SQLite that opens and has the tables."""
    import sqlite3

    (tmp_path / "var").mkdir()
    Path(sqlite_url.removeprefix("sqlite:///")).rename(tmp_path / "var" / "stockpot.db")
    lines = [command for command, _ in foreign() if ELSEWHERE_RUN.match(command)]
    assert len(lines) == 3
    env = {"PATH": f"{BIN}:{os.environ['PATH']}"}
    for line in lines:
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        if "sqlite3" in line:
            with sqlite3.connect(tmp_path / "stockpot-backup.db") as backup:
                assert backup.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
            backup.close()
        else:
            assert len(done.stdout.strip()) >= 32


ELSEWHERE_RUN = re.compile("|".join(re.escape(prefix) for prefix, how in ELSEWHERE.items() if how == "run below"))
