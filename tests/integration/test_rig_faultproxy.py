"""The fault proxy does what its words say, byte for byte, and its counts are true: fault tests rest on both."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.rig.faultproxy import FaultProxy
from tests.rig.link import Link
from tests.rig.ports import fresh_directory
from tests.rig.servers import PostgresServer, ValkeyServer
from tests.rig.waiting import eventually


class _Echo(socketserver.ThreadingTCPServer):
    """Answers each byte with itself; `received` is what it got, `lost` how many connections were reset on it."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, banner: bytes = b"") -> None:
        super().__init__(("127.0.0.1", 0), _EchoConnection)
        self.received = bytearray()
        self.banner = banner
        self.endings: list[str] = []
        self.port = int(self.server_address[1])
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


class _EchoConnection(socketserver.BaseRequestHandler):
    server: _Echo

    def handle(self) -> None:
        try:
            if self.server.banner:
                self.request.sendall(self.server.banner)
            while data := self.request.recv(65536):
                self.server.received += data
                self.request.sendall(data)
            self.server.endings.append("fin")
        except ConnectionError:
            self.server.endings.append("reset")


@pytest.fixture
def echo() -> Iterator[_Echo]:
    """An echo server on a free port."""
    server = _Echo()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def proxy(echo: _Echo) -> Iterator[FaultProxy]:
    """A proxy before the echo server."""
    with FaultProxy("127.0.0.1", echo.port) as proxy:
        yield proxy


@contextlib.contextmanager
def _connected(proxy: FaultProxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as connection:
        yield connection


def _exactly(connection: socket.socket, n_bytes: int) -> bytes:
    data = b""
    while len(data) < n_bytes:
        piece = connection.recv(n_bytes - len(data))
        assert piece, f"ended after {data!r}"
        data += piece
    return data


def _until_end(connection: socket.socket) -> tuple[bytes, str]:
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
    except ConnectionResetError:
        return data, "reset"
    return data, "fin"


def _silent(connection: socket.socket, seconds: float = 0.15) -> bool:
    connection.settimeout(seconds)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return True
    else:
        return False
    finally:
        connection.settimeout(10)


def test_in_fair_weather_bytes_pass_unchanged_and_are_counted(proxy: FaultProxy, echo: _Echo) -> None:
    """A megabyte there and back, then FIN both ways."""
    data = bytes(range(256)) * 4096
    with _connected(proxy) as connection:
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        assert _exactly(connection, len(data)) == data
        sender.join()
        connection.shutdown(socket.SHUT_WR)
        assert _until_end(connection) == (b"", "fin")
    stats = proxy.stats()
    assert (stats.connections, stats.bytes_to_server, stats.bytes_to_client) == (1, len(data), len(data))
    assert (stats.cuts, stats.resets, stats.blackholed_bytes) == (0, 0, 0)
    assert echo.endings == ["fin"]


def test_reset_all_is_a_real_reset_on_both_sides(proxy: FaultProxy, echo: _Echo) -> None:
    """RST, not FIN: the reader gets ECONNRESET."""
    with _connected(proxy) as connection:
        connection.sendall(b"x")
        assert _exactly(connection, 1) == b"x"
        assert proxy.reset_all() == 1
        assert _until_end(connection) == (b"", "reset")
    eventually(lambda: echo.endings == ["reset"], what="the server sees the reset too")
    assert proxy.stats().resets == 1
    assert proxy.open_connections() == 0


def test_close_all_is_a_fin_on_both_sides(proxy: FaultProxy, echo: _Echo) -> None:
    """An orderly end in mid-conversation."""
    with _connected(proxy) as connection:
        connection.sendall(b"x")
        assert _exactly(connection, 1) == b"x"
        assert proxy.close_all() == 1
        assert _until_end(connection) == (b"", "fin")
    eventually(lambda: echo.endings == ["fin"], what="the server sees the end too")
    assert proxy.stats().closes == 1


def test_refuse_refuses_new_connections_and_heal_listens_again_on_the_same_port(proxy: FaultProxy) -> None:
    """As when nobody listens; what is connected stays connected."""
    with _connected(proxy) as old:
        old.sendall(b"a")
        assert _exactly(old, 1) == b"a"
        port = proxy.port
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        old.sendall(b"b")
        assert _exactly(old, 1) == b"b"
        proxy.heal()
        assert proxy.port == port
        with _connected(proxy) as new:
            new.sendall(b"c")
            assert _exactly(new, 1) == b"c"


def test_a_blackhole_swallows_bytes_and_the_connection_is_reset_when_it_heals(proxy: FaultProxy, echo: _Echo) -> None:
    """Half-open: nothing fails, nothing comes; new connections are accepted and get nothing either."""
    with _connected(proxy) as connection:
        connection.sendall(b"x")
        assert _exactly(connection, 1) == b"x"
        proxy.blackhole()
        connection.sendall(b"lost")
        assert _silent(connection)
        with _connected(proxy) as late:
            late.sendall(b"lost too")
            assert _silent(late)
        eventually(lambda: proxy.stats().blackholed_bytes == 12, what="twelve bytes are gone")
        proxy.heal()
        assert _until_end(connection) == (b"", "reset")
    assert bytes(echo.received) == b"x"


def test_a_blackhole_of_one_direction_lets_the_other_pass(proxy: FaultProxy, echo: _Echo) -> None:
    """The server gets the request; the client gets nothing."""
    with _connected(proxy) as connection:
        proxy.blackhole("to_client")
        connection.sendall(b"request")
        eventually(lambda: bytes(echo.received) == b"request", what="the request arrives")
        assert _silent(connection)
    assert proxy.stats().bytes_to_client == 0


def test_the_end_of_a_client_in_a_blackhole_is_not_told_to_the_server(proxy: FaultProxy, echo: _Echo) -> None:
    """The server keeps a connection to nobody, as half-open connections are."""
    proxy.blackhole()
    with _connected(proxy) as connection:
        connection.sendall(b"x")
        eventually(lambda: proxy.stats().blackholed_bytes == 1, what="the byte is gone")
    with _connected(proxy):
        eventually(lambda: proxy.open_connections() == 2, what="both are open for the proxy")
    assert echo.endings == []


def test_a_stall_keeps_bytes_and_delivers_them_when_it_heals(proxy: FaultProxy) -> None:
    """A partition that heals loses nothing: TCP retransmits."""
    with _connected(proxy) as connection:
        proxy.stall()
        connection.sendall(b"patience")
        assert _silent(connection)
        eventually(lambda: proxy.stats().stalled_bytes == 8, what="the proxy holds the bytes")
        proxy.heal()
        assert _exactly(connection, 8) == b"patience"


@pytest.mark.parametrize("n_bytes", [0, 1, 5, 9])
def test_cut_after_lets_exactly_so_many_bytes_pass(proxy: FaultProxy, echo: _Echo, n_bytes: int) -> None:
    """Not one more, not one less, and both sides see the reset."""
    proxy.cut_after(n_bytes, "to_server")
    with _connected(proxy) as connection:
        connection.sendall(b"0123456789")
        assert _until_end(connection)[1] == "reset"
    eventually(lambda: echo.endings == ["reset"], what="the server sees the reset")
    assert bytes(echo.received) == b"0123456789"[:n_bytes]
    assert proxy.stats().cuts == 1
    with _connected(proxy) as connection:
        connection.sendall(b"again")
        assert _exactly(connection, 5) == b"again"


def test_cut_after_toward_the_client_gives_the_client_exactly_so_many_bytes(proxy: FaultProxy) -> None:
    """A response cut in its middle, with FIN: a truncated body."""
    proxy.cut_after(7, "to_client", ending="close")
    with _connected(proxy) as connection:
        connection.sendall(b"HTTP/1.1 200 OK")
        assert _until_end(connection) == (b"HTTP/1.", "fin")


@pytest.mark.parametrize(("before", "arrives"), [(True, b"BEGIN;COMMIT;x;"), (False, b"BEGIN;COMMIT;x;COMMIT")])
def test_cut_at_is_exact_across_chunks(echo: _Echo, before: bool, arrives: bytes) -> None:
    """The second COMMIT, torn over two segments, is the one that is cut."""
    with FaultProxy("127.0.0.1", echo.port, hold_seconds=30) as proxy, _connected(proxy) as connection:
        proxy.cut_at(b"COMMIT", "to_server", skip=1, before=before)
        connection.sendall(b"BEGIN;COMMIT;x;COM")
        eventually(lambda: bytes(echo.received) == b"BEGIN;COMMIT;x;", what="what cannot be the pattern has passed")
        connection.sendall(b"MIT;y;")
        assert _until_end(connection)[1] == "reset"
        eventually(lambda: len(echo.endings) == 1, what="the server's end of it")
        assert bytes(echo.received) == arrives
        assert proxy.stats().cuts == 1


def test_bytes_that_only_begin_the_pattern_are_not_kept_back(proxy: FaultProxy) -> None:
    """A message that ends in the pattern's first letters is delivered after a moment: no deadlock."""
    proxy.cut_at(b"COMMIT", "to_server")
    with _connected(proxy) as connection:
        connection.sendall(b"ask COM")
        assert _exactly(connection, 7) == b"ask COM"
    assert proxy.stats().cuts == 0


def test_drop_reply_after_delivers_the_request_and_loses_the_reply(proxy: FaultProxy, echo: _Echo) -> None:
    """The server did it; the client cannot know."""
    proxy.drop_reply_after(b"COMMIT")
    with _connected(proxy) as connection:
        connection.sendall(b"hello")
        assert _exactly(connection, 5) == b"hello"
        connection.sendall(b"COMMIT;")
        assert _until_end(connection) == (b"", "reset")
    assert bytes(echo.received) == b"helloCOMMIT;"
    stats = proxy.stats()
    assert (stats.cuts, stats.dropped_replies, stats.blackholed_bytes) == (1, 1, 7)


def test_a_dropped_reply_may_end_in_silence(proxy: FaultProxy) -> None:
    """The client waits for ever, which is what its timeouts are for."""
    proxy.drop_reply_after(b"COMMIT", ending="silence")
    with _connected(proxy) as connection:
        connection.sendall(b"COMMIT;")
        eventually(lambda: proxy.stats().dropped_replies == 1, what="the reply is lost")
        assert _silent(connection)


def test_slicing_delivers_the_same_bytes_in_pieces(proxy: FaultProxy) -> None:
    """One byte per write."""
    proxy.slice(1)
    with _connected(proxy) as connection:
        connection.sendall(b"abcdefgh")
        assert _exactly(connection, 8) == b"abcdefgh"
    assert proxy.stats().sliced_writes >= 8


def test_latency_delays_and_keeps_the_order(proxy: FaultProxy) -> None:
    """Each chunk is late, none overtakes another, and the counter says that it was so."""
    proxy.latency(0.02, jitter=0.03)
    sent = [f"{n:04d}".encode() for n in range(30)]
    with _connected(proxy) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert not _readable_at_once(connection, sent[0])
        for piece in sent[1:]:
            connection.sendall(piece)
        assert _exactly(connection, 120) == b"".join(sent)
    assert proxy.stats().delayed_chunks >= 2


def _readable_at_once(connection: socket.socket, piece: bytes) -> bool:
    connection.sendall(piece)
    return not _silent(connection, 0.005)


def test_throttling_paces_the_bytes(proxy: FaultProxy) -> None:
    """A slow line delivers everything, in small portions."""
    proxy.throttle(2_000)
    with _connected(proxy) as connection:
        connection.sendall(b"z" * 400)
        assert _exactly(connection, 400) == b"z" * 400
    # A twentieth of a second's worth at a time.
    assert proxy.stats().sliced_writes >= 4


def test_a_server_that_is_down_shows_as_a_reset_and_is_counted(proxy: FaultProxy) -> None:
    """What a balancer without backends does."""
    proxy.retarget("127.0.0.1", 1)
    # The reset may come so fast that connecting already fails with it.
    with contextlib.suppress(ConnectionResetError), _connected(proxy) as connection:
        assert _until_end(connection) == (b"", "reset")
    eventually(lambda: proxy.stats().refused == 1, what="the proxy could not connect")


def test_a_servers_own_reset_reaches_the_client_as_a_reset(proxy: FaultProxy, echo: _Echo) -> None:
    """The proxy does not soften what the server does."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        proxy.retarget("127.0.0.1", server.getsockname()[1])
        with _connected(proxy) as connection:
            accepted, _ = server.accept()
            Link.reset_socket(accepted)
            assert _until_end(connection) == (b"", "reset")


def test_a_unix_socket_can_be_the_target() -> None:
    """PostgreSQL and Valkey listen there too."""
    path = fresh_directory("sock") / "s"
    with socket.socket(socket.AF_UNIX) as server, _unix_proxy(server, path) as proxy, _connected(proxy) as connection:
        accepted, _ = server.accept()
        with accepted:
            connection.sendall(b"ping")
            assert _exactly(accepted, 4) == b"ping"
            proxy.reset_all()
            assert _until_end(connection) == (b"", "reset")
            assert _until_end(accepted)[0] == b""


@contextlib.contextmanager
def _unix_proxy(server: socket.socket, path: Path) -> Iterator[FaultProxy]:
    server.bind(str(path))
    server.listen()
    with FaultProxy(path) as proxy:
        yield proxy


def test_a_commit_whose_reply_is_lost_is_in_the_database(postgres_server: PostgresServer) -> None:
    """D1 in the flesh: the client sees an error, the row is there. Cut before it, the row is not."""
    url = postgres_server.create_database()
    name = url.rsplit("/", 1)[1]
    with FaultProxy("127.0.0.1", postgres_server.port) as proxy:
        connect = f"host=127.0.0.1 port={proxy.port} user=postgres dbname={name}"
        for arm in (proxy.drop_reply_after, lambda pattern: proxy.cut_at(pattern, "to_server")):
            with psycopg.connect(connect) as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS t (n int)")
                connection.execute("INSERT INTO t VALUES (1)")
                arm(b"COMMIT")
                with pytest.raises(psycopg.OperationalError):
                    connection.commit()
            with psycopg.connect(connect) as connection:
                assert connection.execute("SELECT count(*) FROM t").fetchall() == [(1,)]
        assert proxy.stats().cuts == 2
    postgres_server.drop_database(url)


def test_a_push_whose_reply_is_lost_is_in_the_list(valkey: ValkeyServer) -> None:
    """F25's witness: the client does not know, the list does."""
    with FaultProxy("127.0.0.1", valkey.port) as proxy:
        with redis.Redis(port=proxy.port, retry=Retry(NoBackoff(), 0)) as client:
            client.ping()
            proxy.drop_reply_after(b"LPUSH")
            with pytest.raises(redis.ConnectionError):
                client.lpush("list", "x")
        with valkey.client() as direct:
            assert direct.llen("list") == 1
