"""Outside judges before the gateway: schemathesis, the Vercel AI SDK, instructor, LangChain's standard tests.

The long ones install more: `make test-long`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.fakes import Provider, Workplace
from tests.rig import judges
from tests.rig.gateway import Gateway
from worker.producer.keys import Keys

HERE = Path(__file__).parent
#: What each check of schemathesis looks for stands in its name; the examples and limits of every field are tried.
CHECKS = (
    "not_a_server_error,response_schema_conformance,content_type_conformance,status_code_conformance,"
    "response_headers_conformance,missing_required_header,unsupported_method,ignored_auth"
)


def schemathesis(gateway: Gateway, served: Workplace, tmp_path: Path, *options: str, seconds: float = 140) -> str:
    """Its report on every operation, called with a key."""
    st = judges.python("schemathesis==4.32.0").with_name("st")
    secret = Keys(served.database).create("acme", admin=True)[1]
    command = [str(st), "run", f"{gateway.url}/openapi.json", "-u", gateway.base_url]
    command += ["-H", f"Authorization: Bearer {secret}", "--checks", CHECKS, "--continue-on-failure", *options]
    done = judges.run(command, cwd=tmp_path, seconds=seconds)
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
    return done.stdout


def test_schemathesis_finds_nothing(gateway: Gateway, served: Workplace, tmp_path: Path) -> None:
    report = schemathesis(gateway, served, tmp_path, "--phases", "examples,coverage", "--seed", "18")
    found = re.search(r"Operations: +(\d+) selected / (\d+) total", report)
    assert found and found[1] == found[2] and int(found[1]) > 40, report


@pytest.mark.long
@pytest.mark.timeout(600)
def test_schemathesis_finds_nothing_when_it_makes_calls_up(gateway: Gateway, served: Workplace, tmp_path: Path) -> None:
    assert "Fuzzing" in schemathesis(gateway, served, tmp_path, "--phases", "fuzzing", "-n", "40", seconds=400)


def test_the_vercel_ai_sdk_answers_streams_and_runs_batches(gateway: Gateway, tmp_path: Path) -> None:
    """Text and stream on both endpoints; its five calls of batches."""
    command = judges.node(HERE / "node" / "ai_sdk.mjs", "ai@7.0.173", "@ai-sdk/openai@4.0.118", "zod@4.6.7")
    done = judges.run([*command, gateway.base_url], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "chat": True,
        "responses": True,
        "batch": "completed",
        "results": {"a": ["succeeded", True], "b": ["succeeded", True]},
        "cancelled": "failed",  # so it calls `cancelled`
        "listed": True,
        "refused": [400, "temperature"],
    }


@pytest.mark.long
@pytest.mark.timeout(600)
def test_instructor_gets_objects_whole_and_in_parts(gateway: Gateway, tmp_path: Path) -> None:
    python = judges.python("instructor==1.17.0")
    done = judges.run([str(python), str(HERE / "judges" / "structured.py"), gateway.base_url], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"TOOLS", "JSON_SCHEMA"}
    for whole, last in found.values():
        assert whole == last and whole["name"] and isinstance(whole["servings"], int)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("at", ["gateway", "simulator"])
def test_langchains_standard_tests_pass(at: str, gateway: Gateway, provider: Provider, tmp_path: Path) -> None:
    url = gateway.base_url if at == "gateway" else provider.url
    python = judges.python(
        "langchain-tests==1.1.9", "langchain-openai==1.7.4", "pytest-asyncio==1.5.0", "pytest-socket"
    )
    # One loop for all tests: they share a client, whose connections belong to the loop that opened them.
    loops = [f"--override-ini=asyncio_default_{what}_loop_scope=session" for what in ("test", "fixture")]
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--asyncio-mode=auto", *loops]
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_standard.py").write_bytes((HERE / "judges" / "langchain_standard.py").read_bytes())
    done = judges.run([*command, "test_standard.py"], cwd=tmp_path, env={"GATEWAY_URL": url})
    assert done.returncode == 0, done.stdout[-6_000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 38, done.stdout[-500:]
