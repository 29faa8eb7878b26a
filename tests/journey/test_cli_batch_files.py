"""A batch's files through the real command: full disks, closed pipes, signals, FIFOs, bad lines, other formats."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from tests.batch_factories import ANSWER, claimed, end, over, submit, write_file
from tests.factories import chat, opened
from tests.rig import procs
from tests.rig.procs import Process
from tests.rig.terminal import Terminal
from tests.rig.waiting import eventually
from worker.db import schema

STOCKPOT = Path(sys.executable).with_name("stockpot")
LINES = 300
#: A long answer: the files are larger than what is buffered; with characters at which readers may break a line (`ids`).
LONG = ANSWER[:-1] + ', "text": "\u2028\u2029\u0085' + "x" * 5_000 + '"}'


@pytest.fixture
def env(stockpot_env: Callable[..., dict[str, str]], redis_url: str, tmp_path: Path) -> dict[str, str]:
    """A home with a database, a Redis, and an upstream that does not answer."""
    database = f"sqlite:///{tmp_path}/night.db"
    return stockpot_env(upstream_url="http://127.0.0.1:9/v1", database_url=database, redis_url=redis_url)


@pytest.fixture
def batch(env: dict[str, str], tmp_path: Path) -> str:
    """A batch of which every line but the last two is answered."""
    schema.upgrade(env["STOCKPOT_DATABASE_URL"])
    with opened(env["STOCKPOT_DATABASE_URL"]) as database:
        made, _ = submit(database, write_file(tmp_path / "in.jsonl", LINES))
        left = LINES - 2
        while left and (jobs := claimed(database, made.id, min(left, 100))):
            end(database, *(over(job, response=LONG, error_status=200) for job in jobs))
            left -= len(jobs)
    return made.id


def run(env: dict[str, str], *arguments: object, **how: Any) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [STOCKPOT, *map(str, arguments)]
    if how:
        given = {"stderr": subprocess.PIPE} | ({} if "stdout" in how else {"stdout": subprocess.PIPE})
        done = subprocess.run(command, env=env, text=True, timeout=120, check=False, **given | how)
    else:
        done = procs.run(command, env=env)
    assert "Traceback" not in (done.stderr or ""), done.stderr
    assert "Exception ignored" not in (done.stderr or ""), done.stderr
    return done


def ids(path: Path) -> list[str]:
    text = path.read_text()
    assert text.endswith("\n") or not text
    return [json.loads(line)["custom_id"] for line in text.splitlines()]


def test_a_full_disk_is_a_sentence_and_the_command_that_goes_on(
    env: dict[str, str], batch: str, tmp_path: Path
) -> None:
    """What grows ends with a whole line and goes on from there; what is written at one go is not there at all."""
    out = tmp_path / "out.jsonl"

    def limited() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, 700_000))

    whole = run(env, "batch", "results", batch, "-o", out, preexec_fn=limited)
    assert whole.returncode == 1
    assert "Error: " in whole.stderr and "out.jsonl: a file may not be that large here" in whole.stderr
    assert "Nothing was written" in whole.stderr
    assert not [one for one in tmp_path.iterdir() if one.name.startswith("out")]
    grown = run(env, "batch", "results", batch, "-o", out, "--order", "ended", preexec_fn=limited)
    assert grown.returncode == 1
    follow = run(env, "batch", "results", batch, "-o", tmp_path / "grown.jsonl", "--follow", preexec_fn=limited)
    assert follow.returncode == 1
    kept = ids(tmp_path / "grown.jsonl")
    assert f"{len(kept):,} lines are written" in follow.stderr
    command = follow.stderr.rpartition("Go on from there: stockpot ")[2].split()
    command.remove("--follow")
    assert command[-2:] == ["--offset", str(len(kept))]
    assert run(env, *command).returncode == 0
    assert sorted(ids(tmp_path / "grown.jsonl")) == sorted(f"r-{n}" for n in range(1, LINES - 1))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_stdout_is_a_sentence_for_every_command(env: dict[str, str], batch: str) -> None:
    """The data's commands say from where to go on."""
    with Path("/dev/full").open("w") as full:
        done = run(env, "batch", "results", batch, "-o", "-", stdout=full)
        assert done.returncode == 1
        assert "stdout: the disk is full" in done.stderr
        assert "-o - --follow --offset 0 --order file" in done.stderr
        for command in (
            ("batch", "list"),
            ("batch", "status", batch),
            ("--help",),
            ("usage", "--json"),
        ):
            said = run(env, *command, stdout=full)
            assert (said.returncode, said.stderr.strip().splitlines()) in (
                (1, ["Error: stdout: No space left on device"]),
                (0, ["Nothing was used."]),
            )
        made = run(env, "submit", "-m", "m/one", "hello", stdout=full)
        assert made.returncode == 1 and re.match(r"job_\w{32} is submitted\.\nError: stdout: ", made.stderr)
        device = run(env, "batch", "results", batch, "-o", "/dev/full", "--errors", "/dev/null")
        assert device.returncode == 1
        assert "/dev/full: the disk is full" in device.stderr


def test_a_reader_that_has_enough_ends_the_command_quietly(env: dict[str, str], batch: str) -> None:
    """As `| head -1` does it."""
    done = run(env, "batch", "results", batch, "-o", "-", stdout=closed_pipe())
    assert done.returncode == 1
    assert "stdout: its reader has gone" in done.stderr
    assert "Go on from there: stockpot batch results" in done.stderr


def closed_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_growing_file_with_a_whole_line_and_says_where_to_go_on(
    env: dict[str, str], batch: str, launch: Callable[..., Process], tmp_path: Path, number: signal.Signals
) -> None:
    """A terminal that is closed is one of them; what cannot be caught leaves what is named the next time."""
    out = tmp_path / "out.jsonl"
    # As in a terminal, also where this suite runs under `nohup`, which such a command would obey.
    heard = [
        sys.executable,
        "-c",
        "import os, signal, sys; signal.signal(1, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])",
    ]
    reader = launch([*heard, STOCKPOT, "batch", "results", batch, "-o", out, "--follow"], name="reader", env=env)
    eventually(lambda: out.exists() and out.read_bytes().count(b"\n") == LINES - 2)
    reader.send(number)
    assert reader.wait() == 130
    assert f"--offset {LINES - 2}" in reader.stderr.read_text()
    refused = run(env, "batch", "results", batch, "-o", out, "--follow")
    assert refused.returncode == 2
    assert f"--follow --offset {LINES - 2}" in refused.stderr
    dead = launch([sys.executable, "-c", ""], name="dead")
    dead.wait()
    left = tmp_path / f"new.jsonl.{dead.pid}.part"
    left.write_bytes(b"half")
    named = run(env, "batch", "results", batch, "-o", tmp_path / "new.jsonl")
    assert named.returncode == 0
    assert f"{left} was left by a command that was killed" in named.stderr


def test_pipes_are_read_as_files_are(env: dict[str, str], tmp_path: Path) -> None:
    """A FIFO, a shell's `<(…)`, stdin by name."""
    source = write_file(tmp_path / "in.jsonl", 3)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(source.read_bytes(),))
    writer.start()
    assert "fifo: 3 lines, 0 bad" in run(env, "batch", "quote", fifo).stdout
    writer.join()
    shell = subprocess.run(
        ["bash", "-c", f"{STOCKPOT} batch quote <(cat {source}) && {STOCKPOT} batch quote /dev/stdin < {source}"],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert shell.stdout.count("3 lines, 0 bad") == 2


def test_two_hundred_bad_lines_are_a_line_of_words_for_each_kind(env: dict[str, str], tmp_path: Path) -> None:
    """With the first of them by number; and what is no batch file at all is one sentence."""
    source = tmp_path / "in.jsonl"
    good = write_file(source, 2).read_text()
    bad = [
        json.dumps({"custom_id": f"b-{n}", "method": "POST", "url": "/v1/chat/completions", "body": {}})
        for n in range(200)
    ]
    source.write_text(good + "\n".join([*bad, "nonsense"]) + "\n")
    done = run(env, "batch", "submit", source)
    assert done.returncode == 1
    told = done.stderr.strip().splitlines()
    assert len(told) <= 6
    assert any(one.startswith("200 lines (3, 4, 5, 6, 7, …): body.model: ") for one in told)
    assert any(one.startswith("line 203: ") for one in told)
    table = tmp_path / "in.csv"
    table.write_text("id,prompt\n1,a\n")
    refused = run(env, "batch", "submit", table)
    assert refused.returncode == 2
    [sentence] = refused.stderr.strip().splitlines()
    assert sentence.startswith("Error: in.csv looks like CSV; with your MODEL, of the column prompt: python3 -c ")


def test_bad_lines_are_skipped_on_request_and_a_large_one_says_its_size(env: dict[str, str], tmp_path: Path) -> None:
    """A picture of 5 MB: refused with the setting; skipped, it is in the errors file."""
    source = write_file(tmp_path / "in.jsonl", 2)
    picture = {"custom_id": "big", "method": "POST", "url": "/v1/chat/completions", "body": chat("x" * 5_000_000)}
    text = json.dumps(picture)
    with source.open("a") as file:
        file.write(text + "\n")
    refused = run(env, "batch", "submit", source)
    assert refused.returncode == 1
    assert f"line 3: has {len(text):,} bytes; STOCKPOT_MAX_REQUEST_BYTES allows 1,048,576" in refused.stderr
    made = run(env, "batch", "submit", source, "--skip-bad")
    assert made.returncode == 0
    assert "1 bad lines were skipped" in made.stderr
    out = tmp_path / "out.jsonl"
    assert run(env, "batch", "results", made.stdout.strip(), "-o", out).returncode == 0
    [error] = [json.loads(line) for line in (tmp_path / "out.errors.jsonl").read_text().splitlines()]
    assert (error["custom_id"], error["error"]["code"]) == ("big", "invalid_line")
    assert f"{len(text):,} bytes" in error["error"]["message"]


@pytest.mark.long
def test_what_is_no_file_is_written_to_and_stays_what_it_is(env: dict[str, str], batch: str, tmp_path: Path) -> None:
    """A pipe for errors of which there are none, `/dev/stdout` behind a log, a shell's `>(…)`."""
    fifo, log = tmp_path / "fifo", tmp_path / "log"
    os.mkfifo(fifo)
    assert run(env, "batch", "results", batch, "-o", tmp_path / "out.jsonl", "--errors", fifo).returncode == 0
    assert fifo.is_fifo()
    log.write_text("mine\n")
    for path in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        with log.open("a") as end:
            assert run(env, "batch", "results", batch, "-o", path, stdout=end).returncode == 0
    first, *lines = log.read_text().splitlines()
    assert (first, len(lines)) == ("mine", 3 * (LINES - 2))
    assert not [one for one in Path("/dev").iterdir() if "errors" in one.name]
    shell = f"{STOCKPOT} batch results {batch} -o >(cat > {tmp_path}/copy.jsonl); wait $!"
    assert subprocess.run(["bash", "-c", shell], env=env, timeout=120, check=False).returncode == 0
    assert sorted(ids(tmp_path / "copy.jsonl")) == sorted(ids(tmp_path / "out.jsonl"))


@pytest.mark.long
def test_a_reader_that_reads_nothing_holds_no_command_up(
    env: dict[str, str], batch: str, launch: Callable[..., Process], tmp_path: Path
) -> None:
    """One Ctrl-C ends it, in a pipe that is full as in one that has no reader: `| less`, a FIFO."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    results = launch([STOCKPOT, "batch", "results", batch, "-o", fifo, "--follow"], name="results", env=env)
    results.wait_for_line("is a pipe")
    submit = [STOCKPOT, "batch", "submit", tmp_path / "in.jsonl", "--wait", "--again", "--output", fifo]
    submitted = launch(submit, name="submit", env=env)
    submitted.wait_for_line("^batch_")
    for waiting in (results, submitted):
        waiting.send(signal.SIGINT)
        assert waiting.wait(timeout=60) in {1, 130}
        assert "--follow --offset 0" in waiting.stderr.read_text()
    reading, writing = os.pipe()
    arguments = [str(STOCKPOT), "batch", "results", batch, "-o", "-", "--follow"]
    full = subprocess.Popen(arguments, env=env, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert os.read(reading, 1)  # it has begun, and the pipe is full soon
    full.send_signal(signal.SIGINT)
    assert "--offset 0" in full.communicate(timeout=60)[1]
    assert full.returncode == 1
    os.close(reading)


@pytest.mark.long
def test_a_file_grows_by_one_command_at_a_time(
    env: dict[str, str], batch: str, launch: Callable[..., Process], tmp_path: Path
) -> None:
    """The same command in a second terminal would write every line twice."""
    out = tmp_path / "out.jsonl"
    first = launch([STOCKPOT, "batch", "results", batch, "-o", out, "--follow"], name="first", env=env)
    eventually(lambda: out.exists() and out.read_bytes().count(b"\n") == LINES - 2)
    for options in (("--follow", "--offset", LINES - 2), ("--overwrite",), ("--force", "--follow")):
        second = run(env, "batch", "results", batch, "-o", out, *options)
        assert second.returncode == 2
        assert "is being written by another command" in second.stderr
    first.send(signal.SIGINT)
    assert first.wait() == 130
    assert len(ids(out)) == LINES - 2


@pytest.mark.long
def test_no_option_writes_over_requests_or_over_files_that_are_none_of_ours(
    env: dict[str, str], batch: str, tmp_path: Path
) -> None:
    """The input by any name, a diary that is continued, a name that promises gzip, the report's place."""
    source = tmp_path / "in.jsonl"
    link, hard, diary = tmp_path / "link.jsonl", tmp_path / "hard.jsonl", tmp_path / "diary.txt"
    link.symlink_to(source)
    os.link(source, hard)
    diary.write_text("my diary, without an end")
    before = {path: path.read_bytes() for path in (source, hard, diary)}
    new = tmp_path / "new.jsonl"
    for arguments in (
        ("-o", source, "--force"),
        ("-o", link, "--offset", 3),
        ("-o", hard, "--follow", "--offset", 3, "--force"),
        ("-o", new, "--errors", hard, "--offset", 3),
    ):
        refused = run(env, "batch", "results", batch, *arguments)
        assert (refused.returncode, "requests, which is never written over" in refused.stderr) == (2, True)
    assert run(env, "batch", "results", batch, "-o", diary, "--offset", 3).returncode == 2
    assert {path: path.read_bytes() for path in before} == before
    named = run(env, "batch", "results", batch, "-o", tmp_path / "out.jsonl.gz")
    assert named.returncode == 2
    assert f"gzip {tmp_path}/out.jsonl" in named.stderr
    report = tmp_path / "new.report.json"
    report.write_text("my report")
    early = run(env, "batch", "submit", source, "--again", "--wait", "--output", new)
    assert (early.returncode, "new.report.json exists" in early.stderr) == (2, True)
    late = run(env, "batch", "report", batch, "-o", new)
    assert (late.returncode, report.read_text()) == (2, "my report")
    assert not (tmp_path / "new.report.html").exists()
    for _ in range(2):  # its own report is made anew
        assert run(env, "batch", "report", batch, "-o", tmp_path / "other.jsonl").returncode == 0
    assert run(env, "batch", "report", batch, "-o", "/dev/stdout").returncode == 2


@pytest.mark.long
@pytest.mark.parametrize("columns", [80, 40])
def test_the_bar_its_count_and_its_share_are_seen_in_a_narrow_terminal(
    env: dict[str, str], batch: str, tmp_path: Path, columns: int
) -> None:
    """Of `submit --wait` as of `status --watch`; Ctrl-C there detaches, and says how to attach again."""
    submit = ["batch", "submit", str(tmp_path / "in.jsonl"), "--again", "--wait"]
    for command, line in (
        (["batch", "status", batch, "--watch"], f"[━─]{{20}} 298 of {LINES} 99 %"),
        (submit, f"[━─]{{20}} 0 of {LINES} 0 %"),
    ):
        with Terminal([STOCKPOT, *command], env=env, columns=columns) as terminal:
            terminal.shows(line)
            terminal.press("\x03")
            assert terminal.wait() == 130
            assert "Attach again: stockpot batch status batch_" in terminal.text()
            assert "Traceback" not in terminal.text()


@pytest.mark.long
def test_a_terminal_that_shrinks_or_is_closed_ends_no_wait(env: dict[str, str], batch: str, tmp_path: Path) -> None:
    """The line is as wide as the window is then; who told the command to ignore its end (`nohup`, `disown`) is obeyed."""
    command = [str(STOCKPOT), "batch", "status", batch, "--watch"]
    with Terminal(command, env=env, columns=120) as terminal:
        terminal.shows("298 of 300 99 % · ")
        terminal.resize(40)
        eventually(lambda: all(cell_len(one) < 40 for one in terminal.text().split("\r")[-3:]))
    with Terminal(["env", "TERM=dumb", *command], env=env) as terminal:  # where nothing can be drawn over
        terminal.shows("The next line waits: no worker is running")
    submit = ["batch", "submit", tmp_path / "in.jsonl", "--again", "--wait", "--output", tmp_path / "out.jsonl"]
    ignoring = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"]
    with Terminal([*ignoring, STOCKPOT, *map(str, submit)], env=env) as terminal:
        made = terminal.shows(r"batch_\w{32}")[0]
        terminal.shows("0 of 300")
        terminal.close()
        terminal.send(signal.SIGHUP)
        assert run(env, "batch", "cancel", made).returncode == 0
        assert terminal.wait() == 1
    assert len(ids(tmp_path / "out.errors.jsonl")) == LINES


def test_a_terminal_that_knows_no_unicode_is_shown_what_it_can(env: dict[str, str], batch: str) -> None:
    """Latin-1 and ASCII: a question mark, and no traceback."""
    for encoding in ("latin-1", "ascii"):
        foreign = env | {"PYTHONIOENCODING": encoding}
        shown = run(foreign, "batch", "status", batch)
        assert (shown.returncode, batch in shown.stdout) == (0, True), shown.stderr
        assert run(foreign, "batch", "--help").returncode == 0
        assert run(foreign, "usage", "--plot").returncode == 0
