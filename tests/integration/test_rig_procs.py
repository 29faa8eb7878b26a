"""Processes of the rig are signalled by pid, waited for by their output, and never outlive who started them."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.rig import leftovers, procs
from tests.rig.environment import environment
from tests.rig.procs import Process
from tests.rig.supervisor import Supervisor
from tests.rig.waiting import NeverHappened, eventually, eventually_async, steadily

COUNTER = "import itertools, time\nfor n in itertools.count(): print('tick', n, flush=True); time.sleep(0.02)"
SLEEPER = "import time; print('up', flush=True); time.sleep(600)"


def _python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def test_a_process_leads_its_own_group_and_is_itself_behind_the_leash(launch: Callable[..., Process]) -> None:
    """`exec` keeps the pid: signals reach the program, not a wrapper."""
    process = launch(_python(SLEEPER))
    process.wait_for_line("^up$")
    seen = psutil.Process(process.pid)
    assert seen.cmdline() == _python(SLEEPER)
    assert process.rss_bytes() > 1_000_000
    assert process.open_fds() >= 3
    assert process.cpu_seconds() > 0


def test_kill9_shows_in_the_exit_code_and_a_dead_process_takes_no_signal(launch: Callable[..., Process]) -> None:
    """The witness of a kill is the code -9; signalling the dead is an error, not a no-op."""
    process = launch(_python(SLEEPER))
    process.kill9()
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        process.term()


def test_a_stopped_process_does_nothing_until_continued(launch: Callable[..., Process]) -> None:
    """SIGSTOP freezes the output; SIGCONT lets it go on."""
    process = launch(_python(COUNTER))
    process.wait_for_line("tick 3")
    process.stop()
    assert process.frozen
    frozen = process.output
    steadily(lambda: process.output == frozen, 0.2, "silence")
    process.cont()
    eventually(lambda: process.output != frozen, what="output after SIGCONT")
    assert not process.frozen


def test_waiting_for_a_line_of_an_ended_process_fails_at_once_with_its_output(launch: Callable[..., Process]) -> None:
    """A worker that cannot start is a failure now, with its own words, not after the timeout."""
    process = launch(_python("import sys; sys.exit('no such setting')"))
    with pytest.raises(AssertionError, match=r"ended with 1 before /ready/(.|\n)*no such setting"):
        process.wait_for_line("ready", timeout=60)


def test_waiting_counts_lines(launch: Callable[..., Process]) -> None:
    """The n-th line can be waited for."""
    process = launch(_python(COUNTER))
    assert process.wait_for_line(r"tick (\d+)", count=5)[1] == "4"


def test_closing_takes_children_and_grandchildren_along(launch: Callable[..., Process]) -> None:
    """Even a frozen one, and even a child that left the group; of one that takes its time to die nothing is seen."""
    large = f"memory = b'x' * {400 << 20}; {SLEEPER}"
    code = f"""
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", {large!r}], stdout=subprocess.PIPE, start_new_session=True)
        child.stdout.readline()
        print("child", child.pid, flush=True)
        child.wait()
    """
    process = launch(_python(code))
    child = psutil.Process(int(process.wait_for_line(r"child (\d+)")[1]))
    process.stop()
    process.close()
    assert child.pid not in leftovers.living_children(), "it was killed, and not waited for"


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux")
def test_closing_leaves_none_of_those_that_are_started_again(launch: Callable[..., Process]) -> None:
    """As PostgreSQL starts its helpers again when they die; those born after the look must not stay."""
    code = """
        import subprocess
        start = lambda: subprocess.Popen(["sleep", "600"], start_new_session=True)
        children = [start() for _ in range(20)]
        print("up", flush=True)
        while True:
            children = [start() if child.poll() is not None else child for child in children]
    """
    process = launch(_python(code))
    process.wait_for_line("up")
    before = {child.pid for child in psutil.Process(process.pid).children()}
    assert len(before) == 20
    process.close()
    assert not leftovers.living_children()


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux")
@pytest.mark.leaves_processes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_a_test_run_that_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM or SIGKILL to the parent ends the children, which nobody is left to close."""
    code = f"""
        import sys, time
        from pathlib import Path
        from tests.rig.procs import Process
        child = Process([sys.executable, "-c", {SLEEPER!r}], logs=Path({str(tmp_path)!r}))
        print(child.pid, flush=True)
        time.sleep(600)
    """
    root = Path(__file__).parents[2]
    with subprocess.Popen(_python(code), stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.send_signal(number)
        assert parent.wait(timeout=30) == -number
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, what="the child dies too")


def test_a_supervisor_starts_a_killed_process_again(tmp_path: Path) -> None:
    """Each death is on record with its exit code."""
    with Supervisor(lambda life: Process(_python(SLEEPER), logs=tmp_path, name=f"life-{life}")) as supervisor:
        for deaths in (1, 2, 3):
            pid = supervisor.process.pid
            supervisor.process.kill9()
            eventually(lambda seen=deaths: supervisor.restarts == seen, what="the next life")  # type: ignore[misc]
            assert supervisor.process.pid != pid
            assert supervisor.process.running
        assert supervisor.returncodes == [-9, -9, -9]
    assert not supervisor.process.running


def test_an_orphan_that_detached_itself_is_seen_and_ended(launch: Callable[..., Process]) -> None:
    """A daemon (double fork, new session) comes back as our child; the guard finds it."""
    code = f"""
        import subprocess, sys
        print(subprocess.Popen([sys.executable, "-c", {SLEEPER!r}], start_new_session=True).pid, flush=True)
    """
    process = launch(_python(code))
    pid = int(process.wait_for_line(r"^(\d+)$")[1])
    assert process.wait() == 0
    orphan = eventually(lambda: leftovers.living_children().get(pid), what="the orphan is ours")
    assert orphan is not None
    assert str(pid) in leftovers.end([orphan])[0]
    leftovers.bury_orphans()
    assert not psutil.pid_exists(pid)


def test_a_long_lived_server_is_nobodys_leftover(tmp_path: Path) -> None:
    """What belongs to the run is not blamed on the test that first used it."""
    with Process(_python(SLEEPER), logs=tmp_path, outlives_test=True) as server:
        assert server.pid in procs.long_lived_pids()
        assert server.pid not in leftovers.living_children()
    with Process(_python(SLEEPER), logs=tmp_path) as own:
        assert own.pid in leftovers.living_children()


def test_a_child_gets_only_the_settings_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's key or setting reaches no child."""
    monkeypatch.setenv("AIMLAPI_API_KEY", "real-key")
    monkeypatch.setenv("STOCKPOT_RPM", "3")
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://elsewhere")
    env = environment(tmp_path, redis_url="redis://here", lease_seconds=3, sweep_seconds=None, max_in_flight=7)
    assert env["STOCKPOT_LEASE_SECONDS"] == "3"
    assert env["STOCKPOT_MAX_IN_FLIGHT"] == "7"
    assert env["STOCKPOT_REDIS_URL"] == "redis://here"
    assert "STOCKPOT_SWEEP_SECONDS" not in env
    assert not {"AIMLAPI_API_KEY", "STOCKPOT_RPM", "CELERY_BROKER_URL"} & env.keys()


def test_eventually_shows_the_last_answer() -> None:
    """A failed wait says what it waited for and what it saw."""
    with pytest.raises(NeverHappened, match=r"the queue is long: not within 0.05 s .*last answer: \[\]"):
        eventually(list, 0.05, "the queue is long")


def test_eventually_takes_an_assertion_for_not_yet_and_lets_errors_through() -> None:
    """Only "not yet" is waited out."""
    answers = iter([False, True])

    def asserting() -> bool:
        assert next(answers)
        return True

    assert eventually(asserting)

    def broken() -> bool:
        raise LookupError("a bug")

    with pytest.raises(LookupError):
        eventually(broken)


@pytest.mark.anyio
async def test_eventually_async_waits_for_an_answer() -> None:
    """The asynchronous twin."""
    answers = iter([0, 0, 5])

    async def ask() -> int:
        return next(answers)

    assert await eventually_async(ask) == 5
    with pytest.raises(NeverHappened, match="last answer: ''"):
        await eventually_async(_empty, 0.03)


async def _empty() -> str:
    return ""
