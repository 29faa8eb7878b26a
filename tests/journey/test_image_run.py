"""The image, built and run: as uid 65534 on a read-only root it does the demo's jobs, and migration, worker, gateway, probes and drain.

Where it can be: as root with Debian's buildah, mmdebstrap, bubblewrap and util-linux (`make test-image`); elsewhere the tests are skipped with
the names of what is missing, and tests/contract/test_image.py reads the instructions. What it came to: docs/deploy.md.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import httpx
import openai
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sqlalchemy import create_engine

from tests.fakes import Provider
from tests.revisions import before_newest, upgrade_to
from tests.rig import image
from tests.rig.image import Image
from tests.rig.ports import free_port
from tests.rig.postgres import PostgresServer
from tests.rig.valkey import ValkeyServer
from tests.rig.waiting import eventually
from worker import Stockpot
from worker.base.settings import Settings
from worker.embedded.binary import server_binary

pytestmark = [pytest.mark.long, pytest.mark.timeout(1_800)]

#: Every extra but the embedded server's, which is for laptops.
EXTRAS = ("gateway", "otel", "postgres", "storage")
PATIENCE = 240.0


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    """A provider that answers at once, unless a call says otherwise."""
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


def answers(port: int, path: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=30).status_code == httpx.codes.OK
    return False


def needed(site: Path, python: dict[str, str]) -> set[str]:
    """What the product asks for in this Python, and what that asks for, by the metadata of what is installed."""
    asked = {canonicalize_name(one.metadata["Name"]): one.requires or [] for one in distributions(path=[str(site)])}
    found: set[str] = set()
    ahead = [("stockpot", extra) for extra in EXTRAS]
    seen = set(ahead)
    while ahead:
        name, extra = ahead.pop()
        found.add(name)
        for line in asked.get(canonicalize_name(name), []):
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({**python, "extra": extra}):
                more = {(canonicalize_name(wanted.name), one) for one in {"", *wanted.extras}} - seen
                seen |= more
                ahead += more
    return found


def test_the_image_holds_what_the_product_needs_and_no_build_tool(built: Image) -> None:
    """No pip in any of its Pythons, no compiler, no embedded server; and nothing can be written but where it may."""
    [site] = (built.root / "opt/stockpot/lib").glob("python3*/site-packages")
    held = {canonicalize_name(one.metadata["Name"]) for one in distributions(path=[str(site)])}
    script = "import json, packaging.markers as m; print(json.dumps(m.default_environment()))"
    assert held == needed(site, json.loads(built.run("python", "-c", script, env={}).stdout))
    for python in ("/opt/stockpot/bin/python", "/usr/bin/python3"):
        for module in ("pip", "ensurepip", "setuptools"):
            assert f"No module named {module}" in built.run(python, "-m", module, "--version", env={}).stderr
    assert not list(built.root.glob("usr/**/pip*.whl"))
    programs = {path.name for path in [*built.root.glob("usr/bin/*"), *built.root.glob("opt/stockpot/bin/*")]}
    assert not [one for one in programs if re.fullmatch(r"(.*-)?(gcc|g\+\+|cc|c\+\+|ld|as|make|pip)([-\d.]+)?", one)]
    assert sum(path.lstat().st_size for path in site.rglob("*") if path.is_file()) < 250 * 1024 * 1024
    script = "id -u; for d in / /opt/stockpot /etc; do touch $d/x 2>/dev/null && echo $d; done; touch /tmp/x $HOME/x"
    done = built.run("/bin/sh", "-c", script, env={})
    assert (done.stdout, done.returncode) == ("65534\n", 0)


def test_it_says_whether_it_is_well_and_how_it_wants_to_be_stopped(built: Image) -> None:
    """What an engine reads from the image: it is not in the file alone, a format without a health check leaves it out."""
    assert built.config["Healthcheck"]["Test"] == ["CMD", "python", "-m", "worker.base.healthy"]
    assert (built.config["User"], built.config["StopSignal"]) == ("10001:10001", "SIGTERM")


def test_it_does_the_jobs_of_the_demo(built: Image) -> None:
    """`stockpot demo` with a server of this machine: the image has none."""
    without = built.run("stockpot", "demo", env={})
    assert without.returncode != 0
    assert "no server binary was found" in without.stderr
    server = "/tmp/valkey-server"
    env = {"STOCKPOT_REDIS_SERVER": server, "STOCKPOT_HTTP_PORT": str(free_port())}
    done = built.run("stockpot", "demo", env=env, files=[(server_binary(), server)])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "signature verified" in done.stdout
    assert re.search(r"^in all +69 ", done.stdout, re.MULTILINE)


def test_upgrade_worker_gateway_probes_and_drain(
    built: Image, provider: Provider, postgres_server: PostgresServer, valkey: ValkeyServer, tmp_path: Path
) -> None:
    """A worker refuses the database of the version before until it is upgraded; a job over the OpenAI SDK; one that runs at SIGTERM is finished."""
    url = postgres_server.create_database()
    engine = create_engine(url)
    with engine.begin() as conn:
        upgrade_to(conn, before_newest())
    engine.dispose()
    port, gateway_port = free_port(), free_port()
    env = {
        "STOCKPOT_DATABASE_URL": url,
        "STOCKPOT_REDIS_URL": valkey.url,
        "STOCKPOT_UPSTREAM_URL": provider.url,
        "STOCKPOT_API_KEY": "sk-test",
        "STOCKPOT_SECRET_KEY": "a key of this test that is long enough",
        "STOCKPOT_PAYLOAD_KEY": "another key of this test that is long enough",
        "STOCKPOT_HTTP_PORT": str(port),
        "STOCKPOT_DRAIN_SECONDS": "120",
    }
    health = built.config["Healthcheck"]["Test"][1:]
    assert built.run(*health, env=env).returncode == 1
    assert built.run("stockpot", "db", "check", env=env).returncode != 0
    refused = built.run(env=env)
    assert (refused.returncode, "stockpot db upgrade" in refused.stdout + refused.stderr) == (1, True)
    assert built.run("stockpot", "db", "upgrade", env=env).returncode == 0
    assert built.run("stockpot", "db", "check", env=env).returncode == 0
    worker = built.start(env=env, logs=tmp_path, name="worker")
    made = built.run("stockpot", "keys", "create", "--tenant", "default", "--json", env=env)
    serve = ("stockpot", "serve", "--host", "0.0.0.0", "--port", str(gateway_port))
    gateway = built.start(*serve, env=env, logs=tmp_path, name="gateway")
    for place in (port, gateway_port):
        eventually(lambda place=place: answers(place, "/readyz"), PATIENCE, "it is ready")  # type: ignore[misc]
        assert answers(place, "/livez")
    assert built.run(*health, env=env).returncode == 0
    running = image.first(worker)
    assert set(running.uids()) == set(running.gids()) == {image.NOBODY}
    key = json.loads(made.stdout)["key"]
    with openai.OpenAI(base_url=f"http://127.0.0.1:{gateway_port}/v1", api_key=key) as sdk:
        asked = sdk.chat.completions.create(model="m@sim:ok", messages=[{"role": "user", "content": "hi"}])
        assert asked.choices[0].message.content
    settings = Settings(
        database_url=url, redis_url=valkey.url, home=tmp_path / "home", payload_key=env["STOCKPOT_PAYLOAD_KEY"]
    )
    with Stockpot(settings=settings) as pot:
        job = pot.submit({"model": "m@sim:hold", "messages": [{"role": "user", "content": "hi"}], "stream": True}).id
        eventually(lambda: provider.calls(job), what="it runs")
        running.send_signal(signal.SIGTERM)
        worker.wait_for_line("drain_started", PATIENCE)
        assert pot.get(job).status == "in_progress"
        httpx.post(provider.url.removesuffix("/v1") + "/_sim/release").raise_for_status()
        assert worker.wait(PATIENCE) == 0
        assert (pot.get(job).status, len(provider.calls(job))) == ("completed", 1)
    image.first(gateway).send_signal(signal.SIGTERM)
    assert gateway.wait(PATIENCE) == 0
