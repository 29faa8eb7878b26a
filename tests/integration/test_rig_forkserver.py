"""A program that is forked from the warm process is the program that it would be from nothing."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.rig import leftovers, procs
from tests.rig.environment import environment
from tests.rig.forkserver import BIN, ROOT, Forked, forkable
from tests.rig.procs import Process
from tests.rig.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs are forked on Linux only")

#: `-c` is forked where it speaks of the worker.
PORTRAIT = """
import json, os, sys, signal, threading, worker
print(json.dumps({
    "argv": sys.argv, "path": sys.path[0], "pid": os.getpid(), "sid": os.getsid(0), "cwd": os.getcwd(),
    "environ": dict(os.environ),
    "umask": os.umask(0), "stdin": sys.stdin.read(), "files": sorted(os.listdir("/proc/self/fd"))[:-1],
    "sigint": signal.getsignal(signal.SIGINT) is signal.default_int_handler, "threads": threading.active_count(),
    "main": sys.modules["__main__"].__dict__ is globals(), "unbuffered": sys.stdout.write_through,
    "encodings": [sys.stdin.encoding, sys.stdout.encoding, sys.stderr.errors], "tty": sys.stdout.isatty(),
}))
sys.exit(7)
"""
SLEEPER = "import time, worker\nprint('up', flush=True)\ntime.sleep(600)"

Launch = Callable[..., Process]


def test_it_has_all_that_a_program_from_nothing_has(
    launch: Launch, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments, path, session, directory, environment, umask, standard streams, descriptors, handlers, exit code."""
    command = [sys.executable, "-c", PORTRAIT, "one", "two words"]
    seen = []
    before = os.umask(0o027)
    try:
        for forks in (True, False):
            monkeypatch.setattr(procs, "forks", forks)
            options = {"env": environment(home), "cwd": tmp_path, "stdin": "häh?\n"}
            process = launch(command, name=f"portrait-{forks}", **options)
            assert isinstance(process._popen, Forked) is forks
            assert process.wait() == 7
            portrait = json.loads(process.stdout.read_text())
            assert portrait.pop("pid") == portrait.pop("sid") == process.pid
            seen.append(portrait)
    finally:
        os.umask(before)
    assert seen[0] == seen[1]
    assert seen[0]["umask"] == 0o027 and seen[0]["stdin"] == "häh?\n" and seen[0]["files"] == ["0", "1", "2"]


def test_its_end_is_that_of_any_program(launch: Launch, home: Path) -> None:
    """An error that nobody caught, a signal, an end before its input was read; and `-m` and scripts as well."""
    env = environment(home)
    bad = launch([sys.executable, "-c", "import worker\nraise LookupError('a bug')"], name="bad", env=env, cwd=home)
    assert bad.wait() == 1
    assert bad.tail().endswith("LookupError: a bug")
    killed = launch([sys.executable, "-c", SLEEPER], name="killed", env=env, cwd=home)
    killed.wait_for_line("^up$")
    killed.kill9()
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        killed.term()
    module = launch([sys.executable, "-m", "worker.simulator", "--help"], name="module", env=env, cwd=home)
    script = launch([BIN / "stockpot", "shwo"], name="script", env=env, cwd=home)
    assert (module.wait(), script.wait()) == (0, 2)
    assert "Run the upstream simulator" in module.output
    assert "stockpot" in script.output
    assert all(isinstance(each._popen, Forked) for each in (bad, killed, module, script))


def test_it_is_seen_when_it_is_left_behind_and_ends_with_the_warm_process(home: Path, tmp_path: Path) -> None:
    """The warm process is the run's and no leftover; what it forked is."""
    with Process([sys.executable, "-c", SLEEPER], logs=tmp_path, env=environment(home), cwd=tmp_path) as left:
        left.wait_for_line("^up$")
        living = leftovers.living_children()
        assert left.pid in living
        warm = procs.forkserver_pid()
        assert warm is not None and warm not in living
        assert psutil.Process(left.pid).ppid() == warm
        procs.end_forkserver()
        assert left.wait() == -signal.SIGKILL
        eventually(lambda: left.pid not in leftovers.living_children(), what="it is dead")


@pytest.mark.parametrize(
    ("command", "env", "file", "forks"),
    [
        ([sys.executable, "-m", "celery", "-A", "worker", "worker"], {}, "logs.txt", True),
        ([sys.executable, "-P", "-m", "worker.gateway"], {}, None, True),
        ([str(BIN / "stockpot"), "list"], {"PYTHONPATH": str(ROOT)}, None, True),
        ([sys.executable, str(BIN / "celery"), "-A", "worker", "worker"], {"TZ": None}, None, True),
        ([str(BIN / "stockpot"), "list"], {}, "redis.py", False),
        ([str(BIN / "stockpot"), "list"], {}, "worker/__init__.py", False),
        ([str(BIN / "stockpot"), "list"], {"PYTHONPATH": "/elsewhere"}, None, False),
        ([str(BIN / "stockpot"), "list"], {"PYTHONUNBUFFERED": None}, None, False),
        ([str(BIN / "stockpot"), "list"], {"LC_ALL": "tr_TR"}, None, False),
        ([sys.executable, "-X", "dev", "-m", "worker.gateway"], {}, None, False),
        ([sys.executable, "-I", "-c", "import worker"], {}, None, False),
        ([sys.executable, "-c", "print(1)"], {}, None, False),
        ([sys.executable, "script.py"], {}, None, False),
        (["prlimit", "--nofile=64", sys.executable, "-m", "celery"], {}, None, False),
    ],
)
def test_what_would_be_another_program_is_started_from_nothing(
    command: list[str], env: dict[str, str | None], file: str | None, forks: bool, tmp_path: Path, home: Path
) -> None:
    """Files that shadow what is imported already, options and variables of the interpreter's own, other programs."""
    if file is not None:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    whole = {name: value for name, value in (environment(home) | env).items() if value is not None}
    assert forkable(command, whole, tmp_path) is forks
