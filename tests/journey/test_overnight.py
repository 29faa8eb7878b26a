"""`docs/overnight.md`: a night as a story. Its commands are run as they stand there, on a smaller file with smaller bounds."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.rig.procs import Process
from tests.rig.waiting import eventually

PAGE = Path(__file__).parents[2] / "docs" / "overnight.md"
BLOCK = re.compile(r"<!-- run(?P<how>[^\n]*) -->\n```\n(?P<text>.*?)```", re.DOTALL)
BIN = Path(sys.executable).parent
PATIENCE = 600.0


class Step(NamedTuple):
    """A block of the page: what to type, and what the page says of it."""

    text: str
    closed: bool
    full: bool
    code: int
    prints: str


def steps() -> Iterator[Step]:
    """The blocks that are run, in order."""
    for block in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        how = block["how"]
        code, prints = re.search(r"exits (\d)", how), re.search(r'prints "([^"]+)"', how)
        yield Step(
            block["text"],
            closed="close the terminal" in how,
            full="full disk" in how,
            code=int(code[1]) if code else 0,
            prints=prints[1] if prints else "",
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "cap"),
    [(400, "0.004"), pytest.param(20_000, "0.1", marks=[pytest.mark.long, pytest.mark.timeout(1_800)])],
    ids=["short", "whole"],
)
def test_the_night_is_as_the_page_tells_it(
    launch: Callable[..., Process],
    stockpot_env: Callable[..., dict[str, str]],
    tmp_path: Path,
    lines: int,
    cap: str,
) -> None:
    """Broken lines, a closed terminal, a full disk, a cap that is reached and raised; in the end each line once."""
    env = stockpot_env(STOCKPOT_API_KEY=None, STOCKPOT_CONCURRENCY=None)  # as many calls as by default
    env["PATH"] = f"{BIN}:{env.get('PATH', os.environ['PATH'])}"
    up = launch([BIN / "stockpot", "up", "--simulate"], name="up", env=env, cwd=tmp_path)
    up.wait_for_line(r"^Ready\.", timeout=120)
    told = [*steps()]
    assert [any(step.closed for step in told), any(step.full for step in told), len(told) > 12] == [True] * 3
    for step in told:
        text = step.text.replace("20_000", str(lines)).replace("--max-cost 0.05", f"--max-cost {cap}")
        if step.closed:
            in_a_terminal_that_is_closed(text, env, tmp_path)
            continue
        done = subprocess.run(
            ["bash", "-c", text],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            preexec_fn=little_room if step.full else None,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == step.code, f"{text}\n{said}"
        assert step.prints in said, f"{text}\n{said}"
        assert "Traceback" not in said
        assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")]
    up.send(signal.SIGINT)
    assert up.wait() == 0, up.tail()
    answers, errors = (read(tmp_path / name) for name in ("answers.jsonl", "answers.errors.jsonl"))
    assert len(answers) == lines - lines // 100
    assert sorted(answers + errors) == sorted(f"soup-{number}" for number in range(lines))


def little_room() -> None:
    """No file may grow: as a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def in_a_terminal_that_is_closed(text: str, env: dict[str, str], place: Path) -> None:
    """Run it in a terminal, and close that once answers have come; the output ends with a whole line."""
    master, slave = os.openpty()
    child = subprocess.Popen(
        ["bash", "-c", f"exec {text}"],
        env=env,
        cwd=place,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=own_terminal,  # noqa: PLW1509 -- this process has one thread
    )
    os.close(slave)
    os.set_blocking(master, False)
    output = place / "answers.jsonl"

    def answered() -> bool:
        """Whether answers have come; reads the terminal, which else would be full and hold the command up."""
        with contextlib.suppress(OSError):
            os.read(master, 1 << 16)
        return output.exists() and output.stat().st_size > 0

    try:
        eventually(answered, timeout=240, what="answers have come")
        os.close(master)
        child.wait(timeout=60)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    assert child.returncode != 0, "it did not run to its end"
    assert output.read_text().endswith("\n")


def own_terminal() -> None:
    """Make stdin the session's terminal, so that its end is a SIGHUP."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def read(path: Path) -> list[str]:
    """The custom ids of a file's lines."""
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]
