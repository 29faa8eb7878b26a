"""A disk that is full, for real: a small file system under outputs, under the home, under the database."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.batch_factories import ANSWER, claimed, end, over, submit, write_file
from tests.factories import opened
from tests.rig import procs, small_disk
from tests.rig.small_disk import SmallDisk
from worker.db import schema

pytestmark = pytest.mark.skipif(not small_disk.is_possible(), reason="mounting is not allowed here")
STOCKPOT = Path(sys.executable).with_name("stockpot")
LINES = 200
#: A long answer: the output is larger than what is buffered, and than the disk.
LONG = ANSWER[:-1] + ', "text": "' + "x" * 20_000 + '"}'


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    """A file system of two megabytes."""
    with SmallDisk(2) as mounted:
        yield mounted


@pytest.fixture
def env(stockpot_env: Callable[..., dict[str, str]], redis_url: str, tmp_path: Path) -> dict[str, str]:
    """A database on a disk with room, and an upstream that does not answer."""
    url = f"sqlite:///{tmp_path}/night.db"
    return stockpot_env(upstream_url="http://127.0.0.1:9/v1", database_url=url, redis_url=redis_url)


@pytest.fixture
def batch(env: dict[str, str], tmp_path: Path) -> str:
    """A batch that is answered: four megabytes."""
    schema.upgrade(env["STOCKPOT_DATABASE_URL"])
    with opened(env["STOCKPOT_DATABASE_URL"]) as database:
        made, _ = submit(database, write_file(tmp_path / "in.jsonl", LINES))
        while jobs := claimed(database, made.id, 100):
            end(database, *(over(job, response=LONG, error_status=200) for job in jobs))
    return made.id


def run(env: dict[str, str], *arguments: object, stdin: int | None = None) -> subprocess.CompletedProcess[str]:
    """A command, which never shows a traceback."""
    command = [str(STOCKPOT), *map(str, arguments)]
    if stdin is None:
        done = procs.run(command, env=env)
    else:
        done = subprocess.run(command, env=env, stdin=stdin, capture_output=True, text=True, timeout=240, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done


def names(disk: SmallDisk) -> list[str]:
    """What is on the disk, but for what fills it."""
    return sorted(one.name for one in disk.path.iterdir() if one.name != "ballast")


def test_outputs_on_a_full_disk_end_with_whole_lines_and_go_on(
    env: dict[str, str], batch: str, disk: SmallDisk, tmp_path: Path
) -> None:
    """At one go: nothing of it, and what was there stays. What grows: whole lines, and the command that goes on elsewhere."""
    out = disk.path / "out.jsonl"
    whole = run(env, "batch", "results", batch, "-o", out)
    assert (whole.returncode, names(disk)) == (1, [])
    assert "out.jsonl: the disk is full" in whole.stderr
    follow = run(env, "batch", "results", batch, "-o", out, "--follow")
    assert follow.returncode == 1
    kept = [json.loads(line)["custom_id"] for line in out.read_text().splitlines()]
    assert out.read_bytes().endswith(b"\n") == bool(kept)
    command = follow.stderr.rpartition("Go on from there: stockpot ")[2].split()
    assert command[-2:] == ["--offset", str(len(kept))]
    before = out.read_bytes()
    again = run(env, "batch", "results", batch, "-o", out, "--overwrite")
    assert (again.returncode, out.read_bytes() == before, names(disk)) == (
        1,
        True,
        ["out.jsonl"] if before else names(disk),
    )
    rest = tmp_path / "rest.jsonl"
    assert run(env, *[rest if one == str(out) else one for one in command]).returncode == 0
    kept += [json.loads(line)["custom_id"] for line in rest.read_text().splitlines()]
    assert sorted(kept) == sorted(f"r-{n}" for n in range(1, LINES + 1))
    disk.fill()
    report = run(env, "batch", "report", batch, "-o", disk.path / "x.jsonl")
    assert (report.returncode, "the disk is full" in report.stderr) == (1, True)
    assert [one for one in names(disk) if one.startswith("x")] == []


def test_a_home_without_room_is_said_and_with_room_the_same_command_works(env: dict[str, str], tmp_path: Path) -> None:
    """Stdin is kept there while it is read, and the database of who has no other is there."""
    source = write_file(tmp_path / "in.jsonl", 500)
    with SmallDisk(16) as disk:
        full = env | {
            "STOCKPOT_HOME": str(disk.path / "home"),
            "STOCKPOT_DATABASE_URL": f"sqlite:///{disk.path}/pot.db",
        }
        first = run(full, "batch", "submit", write_file(tmp_path / "few.jsonl", 3))
        assert first.returncode == 0, first.stderr
        disk.fill()
        with source.open("rb") as given:
            spooled = run(full, "batch", "quote", "-", stdin=given.fileno())
        assert spooled.returncode == 1
        assert "No space left on device" in spooled.stderr
        refused = run(full, "batch", "submit", source)
        assert refused.returncode in {1, 3}
        assert f"no room in {disk.path}" in refused.stderr
        assert len(refused.stderr.strip().splitlines()) <= 3
        disk.free()
        with source.open("rb") as given:
            made = run(full, "batch", "submit", "-", stdin=given.fileno())
        assert made.returncode == 0, made.stderr
        listed = run(full, "batch", "list", "--json")
        found = {one["id"]: one["request_counts"]["total"] for one in map(json.loads, listed.stdout.splitlines())}
        assert found == {first.stdout.strip(): 3, made.stdout.strip(): 500}
