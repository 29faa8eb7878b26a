"""A file of 512 MB, and one of 600, before a gateway of its own process: flat memory, and a bound that is a bound (long)."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import psutil  # type: ignore[import-untyped]
import pytest

from tests.factories import rows
from tests.rig.procs import Process
from tests.rig.rawhttp import Reply, ask, dial, reply, request
from tests.rig.waiting import eventually
from worker.db.connect import Database
from worker.gateway import serving

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

MB = 2**20
KIND = "Content-Type: multipart/form-data; boundary=b"
HEAD = (
    b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
)
TAIL = b"\r\n--b--\r\n"
BLOCK = bytes(range(256)) * (MB // 256)
#: What a gateway may grow by: a few pieces, the database's own cache, the allocator's.
GROWS_BY = 96 * MB


@pytest.fixture
def gateway(database: Database, launch: Callable[..., Process], stockpot_env: Callable[..., dict[str, str]]) -> Process:
    env = stockpot_env(
        database_url=database.settings.database_url,
        redis_url="redis://127.0.0.1:1/0",
        upstream_url="http://127.0.0.1:1/v1",
    )
    process = launch([sys.executable, "-m", "worker.gateway", "--port", "0"], env=env)
    eventually(lambda: serving.READY in process.output, what="the gateway listens")
    return process


def url_of(gateway: Process) -> str:
    return gateway.output.split(serving.READY, 1)[1].split()[0].removesuffix("/v1")


def send(url: str, blocks: int, *, declared: bool) -> Reply:
    """Upload so many megabytes, with their number said in advance or not."""
    length = len(HEAD) + blocks * MB + len(TAIL)
    how = f"Content-Length: {length}" if declared else "Transfer-Encoding: chunked"

    def framed(piece: bytes) -> bytes:
        return piece if declared else b"%x\r\n%b\r\n" % (len(piece), piece)

    with dial(url, request("POST", "/v1/files", None, KIND, how) + framed(HEAD)) as sock:
        sock.settimeout(600)
        for _ in range(blocks):
            sock.sendall(framed(BLOCK))
        sock.sendall(framed(TAIL) + (b"" if declared else b"0\r\n\r\n"))
        return reply(sock)


def grown(gateway: Process, work: Callable[[], Reply]) -> tuple[Reply, int]:
    """The answer, and by how many bytes the gateway was larger meanwhile than before, at most."""
    process, over = psutil.Process(gateway.pid), Event()
    before = process.memory_info().rss

    def watch() -> int:
        most = before
        while not over.wait(0.05):
            most = max(most, process.memory_info().rss)
        return int(most - before)

    with ThreadPoolExecutor(1) as pool:
        watched = pool.submit(watch)
        try:
            answer = work()
        finally:
            over.set()
        return answer, watched.result(60)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_512_megabytes_pass_in_flat_memory_and_600_are_refused(gateway: Process, database: Database) -> None:
    url = url_of(gateway)
    small, _ = grown(gateway, lambda: send(url, 1, declared=True))
    assert small.status == 200
    answer, more = grown(gateway, lambda: send(url, 512, declared=False))
    assert (answer.status, more < GROWS_BY) == (200, True), (answer.body, more)
    [row] = rows(database, f"SELECT id, bytes, sha256 FROM files WHERE bytes > {MB}")
    digest = hashlib.sha256()
    for _ in range(512):
        digest.update(BLOCK)
    assert (row["bytes"], row["sha256"]) == (512 * MB, digest.hexdigest())
    part = ask(url, request("GET", f"/v1/files/{row['id']}/content", None, f"Range: bytes={512 * MB - 256}-"))
    assert (part.status, part.body) == (206, BLOCK[:256])

    def pieces() -> int:
        found = rows(
            database,
            "SELECT count(*) AS n FROM file_pieces AS p JOIN files AS f ON f.id = p.file_id WHERE state = 'ready'",
        )
        return int(found[0]["n"])

    kept = pieces()
    for declared in (True, False):
        answer, more = grown(gateway, lambda declared=declared: send(url, 600, declared=declared))  # type: ignore[misc]
        assert (answer.status, answer.error["code"], more < GROWS_BY) == (413, "file_too_large", True), more
    # What was read of the one whose size was not said in advance was stored up to the bound, and is given up.
    assert rows(database, "SELECT count(*) AS n FROM files WHERE state = 'ready'")[0]["n"] == 2 and pieces() == kept
    [given_up] = rows(database, "SELECT count(*) AS n FROM files WHERE state = 'deleted'")
    assert given_up["n"] == 1, "the one that said its size was begun"
