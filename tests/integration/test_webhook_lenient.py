"""Receivers that answer oddly: the status line decides, and nothing else; within bounds, and on connections that stay fit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from click.testing import CliRunner

from tests.rig.deliveries import by_hand, deliverer_of, settle
from worker.cli.app import main
from worker.db.connect import Database
from worker.webhooks.addresses import PRIVATE, Policy
from worker.webhooks.egress import Egress, Reply, Unanswered
from worker.webhooks.lenient import LenientHandler
from worker.webhooks.secrets import Vault


class Receiver:
    """Answers each request on a connection with the same bytes."""

    def __init__(self, answer: bytes, *, closes: bool) -> None:
        self.answer, self.closes, self.connections, self.requests = answer, closes, 0, 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(2)
                self.requests += 1
                writer.write(self.answer)
                await writer.drain()
                if self.closes:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def egress() -> AsyncIterator[Egress]:
    made = Egress(Policy(PRIVATE), seconds=5)
    yield made
    await made.close()


async def posted(egress: Egress, receiver: Receiver, times: int = 1) -> list[Reply]:
    server = await asyncio.start_server(receiver, "127.0.0.1", 0, limit=2**20)
    port = server.sockets[0].getsockname()[1]
    try:
        return [await egress.post(f"http://127.0.0.1:{port}/hook", b"{}", {}) for _ in range(times)]
    finally:
        server.close()


pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 2\r\n\r\nok"


#: What is answered, whether the connection is closed behind it, and what was said: a status and the body's beginning.
ANSWERS = [
    (OK + LENGTH, False, 200, "ok"),
    (b"HTTP/1.1 204 No Content\r\n\r\n", False, 204, ""),
    (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", False, 204, ""),
    (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", False, 204, ""),
    (b"HTTP/1.1 204 No Content\r\n\r\n{}", True, 204, ""),
    (OK + b"X-Long: " + b"x" * 20_000 + b"\r\n" + LENGTH, False, 200, "ok"),
    (OK + b"X: y\r\n" * 500 + LENGTH, False, 200, "ok"),
    (OK + "Grüße: ü\r\n".encode() + LENGTH, False, 200, "ok"),
    (OK + b"no colon at all\r\n: nameless\r\nX Y: z\r\n" + LENGTH, False, 200, "ok"),
    (OK.replace(b"\r\n", b"\n") + LENGTH.replace(b"\r\n", b"\n"), False, 200, "ok"),
    (b"HTTP/1.1 200\r\n" + LENGTH, False, 200, "ok"),
    (b"HTTP/1.0 200 Fine\r\n\r\nok", True, 200, "ok"),
    (b"HTTP/1.0 200 OK\r\n" + LENGTH, True, 200, "ok"),
    (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK + LENGTH, False, 200, "ok"),
    (OK + b"Content-Length: two\r\n\r\nok", True, 200, "ok"),
    (OK + b"Content-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", False, 200, "ok"),
    (OK, True, 200, ""),
    (b"HTTP/1.1 202 Accepted", True, 202, ""),
    (OK + b"X: " + b"y" * 2_000_000, True, 200, ""),
    (b"HTTP/1.1 500 No\r\nRetry-After: 7\r\n" + LENGTH, False, 500, "ok"),
    (b"\r\n\r\n" + OK + LENGTH, False, 200, "ok"),
]


@pytest.mark.parametrize(("answer", "closes", "status", "head"), ANSWERS, ids=range(len(ANSWERS)))
async def test_the_status_line_decides(egress: Egress, answer: bytes, closes: bool, status: int, head: str) -> None:
    """Twice, so that a connection that is used again is fit for it."""
    receiver = Receiver(answer, closes=closes)
    replies = await posted(egress, receiver, times=2)
    assert [(one.status, one.head) for one in replies] == [(status, head)] * 2
    assert receiver.requests == 2
    assert replies[0].retry_after == ("7" if status == 500 else None)


async def test_an_odd_answer_is_a_delivery_for_who_looks(
    sqlite: Database, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent once each, by the deliverer; `stockpot webhooks events` shows them as delivered."""
    async with AsyncExitStack() as stack:
        urls = []
        for answer, closes, status, _ in ANSWERS:
            if status != 500:
                receiver = Receiver(answer, closes=closes)
                server = await stack.enter_async_context(await asyncio.start_server(receiver, "127.0.0.1", 0))
                urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook")
        settle(sqlite, *urls)
        async with by_hand(deliverer_of(sqlite, vault)) as deliverer:
            await deliverer.run_once(len(urls))
    monkeypatch.setenv("STOCKPOT_DATABASE_URL", sqlite.settings.database_url)
    shown = await asyncio.to_thread(CliRunner().invoke, main, ["webhooks", "events", "--json"])
    events = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [(one["status"], one["attempts"]) for one in events] == [("delivered", 1)] * len(urls)


@pytest.mark.parametrize("answer", [OK + LENGTH, b"HTTP/1.1 204 No Content\r\n\r\n"], ids=["200", "204"])
async def test_a_plain_answer_keeps_its_connection(egress: Egress, answer: bytes) -> None:
    """Reading leniently costs no handshake."""
    receiver = Receiver(answer, closes=False)
    await posted(egress, receiver, times=3)
    assert (receiver.connections, receiver.requests) == (1, 3)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "its answer is not HTTP"),
        (b"", "it closed the connection without an answer"),
        (b"HTTP/one two\r\n\r\n", "its answer is not HTTP"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3_000, "its answer is not HTTP"),
    ],
    ids=["ssh", "nothing", "no status", "hints without an end"],
)
async def test_what_is_no_answer_is_said_in_words(egress: Egress, answer: bytes, words: str) -> None:
    """Not in a library's."""
    with pytest.raises(Unanswered, match=words):
        await posted(egress, Receiver(answer, closes=True))


@pytest.mark.parametrize(
    "answer",
    [b"\n" + OK + b"X: y\r\n" + LENGTH, b"HTTP/1.1 103 E\n\n" + OK + b"\r\n", b"HTTP/1.0 200\n\n"],
    ids=range(3),
)
async def test_the_pieces_in_which_an_answer_comes_make_no_difference(answer: bytes) -> None:
    """Byte by byte, as it is."""
    handler = LenientHandler(loop=asyncio.get_running_loop())
    handler.set_response_params()
    for at in range(len(answer)):
        handler.data_received(answer[at : at + 1])
    message, _ = await handler.read()
    assert message.code == 200


async def test_a_receiver_that_is_not_there_is_said_in_words(egress: Egress) -> None:
    """As people say it."""
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(Unanswered, match=r"^no connection: "):
        await egress.post(f"http://127.0.0.1:{port}/", b"{}", {})
