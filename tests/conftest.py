"""Fixtures for every test: real servers, fresh databases, clean environments, and nobody left behind.

What belongs to the run (servers, migrated templates) is made once, on first use; what a test writes to (a database, a
home) is its own; Valkey is shared and emptied before each test that uses it.
"""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import hypothesis
import pytest
import structlog

from tests.rig import leftovers, procs, witness
from tests.rig.environment import PAYLOAD_KEY, environment, scrub
from tests.rig.ports import fresh_directory
from tests.rig.procs import Process
from tests.rig.servers import PostgresServer, ValkeyServer


def pytest_configure(config: pytest.Config) -> None:
    """Forget the developer's settings, see orphans, end tidily on SIGTERM; a slow machine fails no property.

    Properties are tried with the same examples each time, so that a run says something about the change that it is run for;
    `--hypothesis-profile search` looks for others.
    """
    scrub()
    slow = [hypothesis.HealthCheck.too_slow]
    for profile, same in (("stockpot", True), ("search", False)):
        hypothesis.settings.register_profile(profile, deadline=None, suppress_health_check=slow, derandomize=same)
    hypothesis.settings.load_profile(config.getoption("--hypothesis-profile") or "stockpot")
    leftovers.adopt_orphans()
    signal.signal(signal.SIGTERM, _terminated)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A script's shell starts what it puts into the background so, and children would inherit their deafness.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what is still running, whatever happened to the fixtures."""
    procs.close_all()


def _terminated(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends the run as Ctrl-C does: with fixtures torn down and servers ended."""
    raise KeyboardInterrupt


#: A fault test waits for conditions, generously; a machine that is slow must not fail it, in seconds.
FAULT_TIMEOUT = 420


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Fault tests may take long; with faults switched off only they run."""
    for item in items:
        if item.get_closest_marker("fault") is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(FAULT_TIMEOUT))
    if witness.FAULTS_ON:
        return
    config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("fault") is None])
    items[:] = [item for item in items if item.get_closest_marker("fault") is not None]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A fault test needs a witness; with faults switched off, exactly a missing witness is what it must report."""
    report = yield
    if call.when != "call" or item.get_closest_marker("fault") is None:
        return report
    if report.passed and not (witness.FAULTS_ON and witness.called):
        report.outcome = "failed"
        report.longrepr = "vacuous: " + (
            "a fault test without a Witness" if witness.FAULTS_ON else "it passes although its fault was not injected"
        )
    elif not witness.FAULTS_ON and call.excinfo is not None and call.excinfo.errisinstance(witness.NotWitnessed):
        report.outcome = "passed"
    return report


@pytest.fixture(autouse=True)
def logs_of_a_command_end_with_it(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command that runs in this process says how its process logs; the next test is none of its business."""
    configure, commands = structlog.configure, []

    def noted(*args: Any, **options: Any) -> None:
        # `telemetry.configure`, and nobody else, has loggers keep what they were first given.
        commands.append(options.pop("cache_logger_on_first_use", False))
        configure(*args, **options)

    monkeypatch.setattr(structlog, "configure", noted)
    yield
    if any(commands):
        structlog.reset_defaults()


@pytest.fixture(autouse=True)
def no_witness_yet() -> None:
    """Each test calls its own witnesses."""
    witness.called.clear()


@pytest.fixture(autouse=True)
def nobody_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a process running, and end that process.

    `@pytest.mark.leaves_processes` excuses a test.
    """
    before = leftovers.living_children()
    yield
    left = leftovers.staying(process for pid, process in leftovers.living_children().items() if pid not in before)
    leftovers.bury_orphans()
    names = leftovers.end(left)
    if names and request.node.get_closest_marker("leaves_processes") is None:
        pytest.fail("the test left processes running:\n" + "\n".join(names), pytrace=False)


@pytest.fixture(autouse=True)
def clear_payloads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that looks into columns of payloads, marked `clear`, has none encrypted by `TESTS_ENCRYPTED=1`."""
    if request.node.get_closest_marker("clear") is not None:
        monkeypatch.delenv(PAYLOAD_KEY, raising=False)


@pytest.fixture(autouse=True)
def settings_unread() -> Iterator[None]:
    """Settings are read once per process; each test reads its own."""
    _forget_settings()
    yield
    _forget_settings()


@pytest.fixture(autouse=True)
def models_uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process counts its first hundred models by name; each test has a hundred of its own, whatever ran before it."""
    module = sys.modules.get("worker.base.metrics")
    if module is not None:
        monkeypatch.setattr(module, "_models", set())


def _forget_settings() -> None:
    module = sys.modules.get("worker.base.settings")
    if module is not None:
        module.settings.cache_clear()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The run's PostgreSQL, fast and not durable. Tests that kill or freeze one take `own_postgres`."""
    with PostgresServer(durable=False, outlives_test=True) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """The run's Valkey, without persistence. Tests take `valkey`; those that kill or freeze one take `own_valkey`."""
    with ValkeyServer(outlives_test=True) as server:
        yield server


@pytest.fixture
def valkey(valkey_server: ValkeyServer) -> ValkeyServer:
    """The run's Valkey, emptied."""
    valkey_server.flush()
    return valkey_server


@pytest.fixture
def redis_url(valkey: ValkeyServer) -> str:
    """URL of the run's Valkey, emptied."""
    return valkey.url


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A Valkey of this test alone, with every write on disk before its answer: kill, freeze, restart it."""
    with ValkeyServer(appendonly=True) as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A durable PostgreSQL of this test alone: kill, freeze, restart it."""
    with PostgresServer(durable=True) as server:
        yield server


def migrate(url: str) -> str:
    """Bring the database of a URL to the newest schema and return the URL."""
    from worker.db.schema import upgrade

    upgrade(url)
    return url


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    """Name of a migrated database in the run's PostgreSQL, to be copied, never to be used."""
    migrate(postgres_server.create_database(name="template_stockpot"))
    return "template_stockpot"


@pytest.fixture(scope="session")
def sqlite_template() -> Path:
    """A migrated SQLite file, to be copied, never to be used."""
    path = fresh_directory("sqlite") / "template.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(tmp_path: Path, sqlite_template: Path) -> str:
    """URL of this test's own migrated SQLite database."""
    path = tmp_path / "stockpot.db"
    for part in sqlite_template.parent.glob("template.db*"):
        shutil.copy(part, path.with_name(part.name.replace("template.db", "stockpot.db")))
    return f"sqlite:///{path}"


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    """URL of this test's own migrated PostgreSQL database."""
    url = postgres_server.create_database(postgres_template)
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of this test's own migrated database, once on SQLite and once on PostgreSQL."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=["sqlite", "postgres"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of this test's own database without any schema, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = server.create_database()
    yield url
    server.drop_database(url)


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty `STOCKPOT_HOME`, with a path short enough for unix sockets."""
    path = fresh_directory("home")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def stockpot_env(home: Path) -> Callable[..., dict[str, str]]:
    """Makes the whole environment of a child process; see `tests.rig.environment.environment`."""

    def build(**settings: object) -> dict[str, str]:
        return environment(home, **settings)  # type: ignore[arg-type]

    return build


@pytest.fixture
def from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its programs have command lines of their own: none is forked (`tests.rig.forkserver`)."""
    monkeypatch.setattr(procs, "forks", False)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts processes that end with the test: `launch(command, name=…, env=…)`; they write to the test's directory."""
    started: list[Process] = []

    def start(command: list[str | Path], *, name: str | None = None, **options: object) -> Process:
        name = name or f"process-{len(started)}"
        process = Process(command, logs=tmp_path, name=name, **options)  # type: ignore[arg-type]
        started.append(process)
        return process

    yield start
    for process in reversed(started):
        process.close()


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts workers (`celery -A worker worker`) that end with the test: `start_worker(env, name=…)`."""
    started: list[Process] = []

    def start(env: dict[str, str], *, name: str | None = None, options: tuple[str, ...] = ()) -> Process:
        process = procs.worker(env, logs=tmp_path / "workers", name=name or f"worker-{len(started)}", options=options)
        started.append(process)
        return process

    yield start
    for process in reversed(started):
        process.close()
