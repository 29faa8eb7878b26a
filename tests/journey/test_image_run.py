"""The image as uid 65534 on a read-only root: migration, worker, gateway, probes, drain. Where it can be built: root and Debian's tools."""

from __future__ import annotations

import contextlib
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import psutil  # type: ignore[import-untyped]
import pytest

from tests.fakes import Provider
from tests.rig import image
from tests.rig.image import Image
from tests.rig.ports import free_port
from tests.rig.postgres import PostgresServer
from tests.rig.procs import Process
from tests.rig.valkey import ValkeyServer
from tests.rig.waiting import eventually
from worker import Stockpot
from worker.base.settings import Settings

pytestmark = [pytest.mark.long, pytest.mark.timeout(1_800)]


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    """A provider that answers at once."""
    with Provider(tmp_path) as provider:
        yield provider


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image of this tree."""
    why = image.missing()
    if why is not None:
        pytest.skip(why)
    with contextlib.closing(Image(tmp_path_factory.mktemp("image"))) as built:
        yield built


def ready(port: int, path: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def inside(process: Process) -> psutil.Process:
    """The program in the container."""
    return psutil.Process(process.pid).children(recursive=True)[-1]


def test_the_image_is_small_and_holds_no_build_tool(built: Image) -> None:
    """No pip, no compiler, no embedded server; and nothing can be written but where it may."""
    programs = {path.name for path in (built.root / "opt/stockpot/bin").iterdir()}
    assert not programs & {"pip", "hatchling", "valkey-server"}
    assert not list((built.root / "usr/bin").glob("*gcc*"))
    size = sum(path.lstat().st_size for path in (built.root / "opt/stockpot").rglob("*") if not path.is_symlink())
    assert size < 250 * 1024 * 1024
    script = "id -u; for d in / /opt/stockpot /etc; do touch $d/x 2>/dev/null && echo $d; done; touch /tmp/x /var/lib/stockpot/x"
    done = built.run("/bin/sh", "-c", script, env={})
    assert (done.stdout, done.returncode) == ("65534\n", 0)


def test_migration_worker_gateway_probes_and_drain(
    built: Image, provider: Provider, postgres_server: PostgresServer, valkey: ValkeyServer, tmp_path: Path
) -> None:
    """A job over the OpenAI SDK, one that is cut by SIGTERM and drained, and exit codes."""
    url = postgres_server.create_database()
    port, gateway_port = free_port(), free_port()
    env = {
        "STOCKPOT_DATABASE_URL": url,
        "STOCKPOT_REDIS_URL": valkey.url,
        "STOCKPOT_UPSTREAM_URL": provider.url,
        "STOCKPOT_API_KEY": "sk-test",
        "STOCKPOT_SECRET_KEY": "a key of this test that is long enough",
        "STOCKPOT_PAYLOAD_KEY": "another key of this test that is long enough",
        "STOCKPOT_HTTP_PORT": str(port),
        "STOCKPOT_DRAIN_SECONDS": "30",
    }
    before = built.run("stockpot", "db", "check", env=env)
    assert before.returncode != 0
    assert built.run("stockpot", "db", "upgrade", env=env).returncode == 0
    assert built.run("stockpot", "db", "check", env=env).returncode == 0
    worker = built.start("stockpot", "worker", env=env, logs=tmp_path, name="worker")
    serve = ("stockpot", "serve", "--port", str(gateway_port))
    gateway = built.start(*serve, env=env, logs=tmp_path, name="gateway")
    eventually(lambda: ready(port, "/readyz") and ready(gateway_port, "/readyz"), 120, "both are ready")
    assert built.run("python", "-m", "worker.base.healthy", str(port), env=env).returncode == 0
    assert built.run("python", "-m", "worker.base.healthy", str(free_port()), env=env).returncode == 1
    assert inside(worker).uids().real == image.NOBODY
    with openai.OpenAI(base_url=f"http://127.0.0.1:{gateway_port}/v1", api_key="any") as sdk:
        asked = sdk.chat.completions.create(model="m@sim:ok", messages=[{"role": "user", "content": "hi"}])
        assert asked.choices[0].message.content
    settings = Settings(
        database_url=url,
        redis_url=valkey.url,
        home=tmp_path / "home",
        payload_key=env["STOCKPOT_PAYLOAD_KEY"],
    )
    with Stockpot(settings=settings) as pot:
        body = {"model": "m@sim:slow=300", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        job = pot.submit(body).id
        eventually(lambda: provider.calls(job), what="it runs")
        os.kill(inside(worker).pid, signal.SIGTERM)
        eventually(lambda: not worker.running, 60, "it has drained")
        assert worker.returncode == 0
        assert (pot.get(job).status, len(provider.calls(job))) == ("completed", 1)
    os.kill(inside(gateway).pid, signal.SIGTERM)
    eventually(lambda: not gateway.running, 60, "the gateway has ended")
    assert gateway.returncode == 0
