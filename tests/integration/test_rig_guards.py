"""The guards of the suite: a fault must be witnessed, a planted secret findable, and a left process is a failure."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.rig import canary
from tests.rig.canary import Canaries, Leak
from tests.rig.monitor import Monitor
from tests.rig.servers import ValkeyServer
from tests.rig.waiting import eventually
from tests.rig.witness import NotWitnessed, Witness

ROOT = Path(__file__).parents[2]


def test_a_fault_that_nobody_saw_fails_the_test() -> None:
    """False evidence is none."""
    with pytest.raises(NotWitnessed, match="nobody saw that the worker died"), Witness("the worker died") as witness:
        assert not witness.saw(0)
        assert not witness.saw(None)


def test_a_fault_that_was_seen_passes() -> None:
    """The injection runs, the evidence counts."""
    done: list[int] = []
    with Witness("it happened", faults_on=True) as witness:
        witness.inject(lambda: done.append(1))
        assert witness.saw(done)
    assert done == [1]


def test_with_faults_off_nothing_is_injected_and_the_witness_fails_whatever_else_does() -> None:
    """Also where the test stumbles earlier, because it waits for what never comes."""
    done: list[int] = []
    with pytest.raises(NotWitnessed), Witness("it happened", faults_on=False) as witness:
        witness.inject(lambda: done.append(1))
        raise AssertionError("never came")
    assert done == []


def test_an_error_in_a_test_with_faults_on_stays_what_it_is() -> None:
    """The guard hides no other failure."""
    with pytest.raises(LookupError), Witness("it happened", faults_on=True):
        raise LookupError("a bug")


FAULT_TESTS = """
    import subprocess, sys
    import pytest
    from tests.rig.witness import Witness

    @pytest.mark.fault
    def test_honest():
        with Witness("the child was killed") as witness:
            with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1) as child:
                witness.inject(child.kill)
                child.stdin.close()
            witness.saw(child.returncode == -9)

    @pytest.mark.fault
    def test_vacuous():
        with Witness("something") as witness:
            witness.saw("always")

    @pytest.mark.fault
    def test_unwitnessed():
        pass

    def test_plain():
        pass

    def test_litters():
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
"""


def _verdicts(tmp_path: Path, **env: str) -> dict[str, str]:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_faults.py").write_text(textwrap.dedent(FAULT_TESTS))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  fault: x\n  leaves_processes: x\n")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    lines = [line.split() for line in run.stdout.splitlines() if "test_faults.py::" in line and "%]" in line]
    verdicts: dict[str, str] = {}
    for line in lines:
        name = line[0].split("::")[1]
        verdicts[name] = "FAILED" if "FAILED" in (verdicts.get(name), line[1]) else line[1]
    errors = {line.split("::")[1].split()[0] for line in run.stdout.splitlines() if line.startswith("ERROR ")}
    return verdicts | dict.fromkeys(errors, "FAILED")


def test_the_suite_demands_a_witness_of_each_fault_test_and_sees_leftovers(tmp_path: Path) -> None:
    """As it runs every day."""
    assert _verdicts(tmp_path) == {
        "test_honest": "PASSED",
        "test_vacuous": "PASSED",
        "test_unwitnessed": "FAILED",
        "test_plain": "PASSED",
        "test_litters": "FAILED",
    }


def test_with_faults_off_the_suite_unmasks_the_test_that_passes_without_its_fault(tmp_path: Path) -> None:
    """Only fault tests run; the honest one reports its missing witness, which is what was expected."""
    assert _verdicts(tmp_path, STOCKPOT_TEST_FAULTS="off") == {
        "test_honest": "PASSED",
        "test_vacuous": "FAILED",
        "test_unwitnessed": "FAILED",
    }


def test_canaries_are_unique() -> None:
    """A find cannot be older than the test, nor one secret be another."""
    one, other = Canaries.hatch().tokens(), Canaries.hatch().tokens()
    assert len({*one.values(), *other.values()}) == 2 * len(one)


@pytest.mark.parametrize("lead", ["", "x", "xx", "xxx"])
def test_a_canary_is_found_plain_percent_encoded_and_in_base64_at_any_alignment(lead: str) -> None:
    """A Celery message carries its body in base64."""
    token = Canaries.hatch().prompt
    tokens = {"prompt": token}
    assert canary.scan_bytes("log", f"…{lead}{token}…".encode(), tokens)[0].kind == "prompt"
    wrapped = base64.b64encode(f"{lead}{token} and more".encode())
    assert canary.scan_bytes("message", wrapped, tokens)[0].kind == "prompt"
    assert canary.scan_bytes("log", b"nothing here", tokens) == []


def test_a_canary_across_two_blocks_of_a_large_file_is_found_at_its_place(tmp_path: Path) -> None:
    """Logs are larger than a block."""
    token = Canaries.hatch().api_key
    at = 1024 * 1024 - 5
    path = tmp_path / "deep" / "worker.log"
    path.parent.mkdir()
    path.write_bytes(b"." * at + token.encode() + b"." * 100)
    assert canary.scan([tmp_path], {"api_key": token}) == [Leak("api_key", str(path), at)]


def test_a_search_of_nothing_is_an_error(tmp_path: Path) -> None:
    """A wrong path must not look like a clean log."""
    with pytest.raises(FileNotFoundError):
        canary.scan([tmp_path / "no-such.log"], {"api_key": "canary-x"})


def test_canaries_are_found_in_a_database_by_column(tmp_path: Path) -> None:
    """So that an allow-list can say: in requests.body and nowhere else."""
    url = f"sqlite:///{tmp_path / 'd.db'}"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE requests (id text, body text)"))
        connection.execute(sa.text("INSERT INTO requests VALUES ('1', 'say canary-prompt-1')"))
    engine.dispose()
    leaks = canary.scan(canary.database_columns(url), {"prompt": "canary-prompt-1"})
    assert [leak.where for leak in leaks] == ["requests.body"]


def test_canaries_are_found_in_redis_and_in_its_traffic_and_on_its_disk(
    own_valkey: ValkeyServer, tmp_path: Path
) -> None:
    """Every kind of key, MONITOR, and the append-only file."""
    token = Canaries.hatch().completion
    tokens = {"completion": token}
    with Monitor(own_valkey, tmp_path / "monitor") as monitor, own_valkey.client() as client:
        client.set("s", token)
        client.rpush("l", token)
        client.hset("h", "f", token)
        client.sadd("m", token)
        client.zadd("z", {token: 1})
        client.xadd("x", {"e": token})
        eventually(lambda: canary.scan([monitor.path], tokens), what="MONITOR shows it")
    leaks = canary.scan(canary.redis_keys(own_valkey.url), tokens)
    assert {leak.where for leak in leaks} == {f"redis key {name}" for name in "slhmzx"}
    assert canary.scan(own_valkey.files, tokens)


def test_canaries_are_found_in_command_lines() -> None:
    """`ps` shows them to everybody."""
    code = "import sys; print('up', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "canary-argument"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        leaks = canary.scan(canary.command_lines([child.pid]), {"key": "canary-argument"})
        child.communicate()
    assert [leak.where for leak in leaks] == [f"command line of {child.pid}"]
