"""Bytes that no SDK sends, before a real `stockpot serve` on each database: the error body, its status, nothing kept."""

from __future__ import annotations

import gzip
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.factories import rows
from tests.rig.procs import Process
from tests.rig.rawhttp import Reply, ask, dial, reply, request
from tests.rig.waiting import eventually
from worker.db.connect import Database
from worker.files import collector
from worker.gateway import serving
from worker.gateway.openapi_words import OPERATIONS

JSON = "Content-Type: application/json"
CHAT = b'{"model": "openai/gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}'


@pytest.fixture
def url(database: Database, launch: Callable[..., Process], stockpot_env: Callable[..., dict[str, str]]) -> str:
    """The root of a gateway that was started as a user does. There is no worker: what is accepted would stay."""
    env = stockpot_env(
        database_url=database.settings.database_url,
        redis_url="redis://127.0.0.1:1/0",
        upstream_url="http://127.0.0.1:1/v1",
        gateway_wait_seconds=1,
        max_file_bytes=4_000_000,
    )
    process = launch([Path(sys.executable).with_name("stockpot"), "serve", "--port", "0"], env=env)
    eventually(lambda: serving.READY in process.output, what="the gateway listens")
    return process.output.split(serving.READY, 1)[1].split()[0].removesuffix("/v1")


#: One start of a gateway each; what differs between the databases is asked on both.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgres = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)


def kept(database: Database) -> list[int]:
    """How many jobs, files, pieces of files and batches there are, once a worker has removed what was given up."""
    collector.collect(database)
    return [
        int(rows(database, f"SELECT count(*) AS n FROM {table}")[0]["n"])
        for table in ("jobs", "files", "file_pieces", "batches")
    ]


NO_HTTP = {
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no host": b"GET /v1/models HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "two lengths": b"POST /v1/jobs HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "a negative length": b"POST /v1/jobs HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\nabcde",
    "a length of words": b"POST /v1/jobs HTTP/1.1\r\nHost: a\r\nContent-Length: five\r\n\r\nabcde",
    "another coding": b"POST /v1/jobs HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "NUL in a header": b"GET /v1/models HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    "a URL beyond ASCII": "GET /v1/files/é HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
}


@on_sqlite
def test_what_is_no_http_gets_the_error_body_and_the_end_of_its_connection(url: str, database: Database) -> None:
    for name, sent in NO_HTTP.items():
        answer = ask(url, sent)
        assert (answer.status, answer.error["code"]) == (400, "invalid_http"), name
        assert answer.headers["connection"] == "close", name
    broken = request("POST", "/v1/chat/completions", None, JSON, "Transfer-Encoding: chunked") + b"zz\r\nabc\r\n"
    assert ask(url, broken).status == 400
    # Half a body whose rest never comes: the sender is gone, and so is what it began.
    half = request("POST", "/v1/chat/completions", None, JSON, "Transfer-Encoding: chunked") + b"5\r\nab"
    dial(url, half).close()
    assert ask(url, request("GET", "/v1/files")).status == 200
    assert kept(database) == [0, 0, 0, 0]


@on_sqlite
def test_a_body_in_pieces_and_one_that_waits_for_leave_are_bodies_like_any_other(url: str, database: Database) -> None:
    pieces = b"".join(b"1\r\n%b\r\n" % CHAT[at : at + 1] for at in range(len(CHAT))) + b"0\r\n\r\n"
    sent = request("POST", "/v1/chat/completions", None, JSON, "Transfer-Encoding: chunked") + pieces
    assert ask(url, sent).error["code"] == "still_running"  # it was accepted: there is no worker
    head = request("POST", "/v1/chat/completions", CHAT, JSON, "Expect: 100-continue").removesuffix(CHAT)
    with dial(url, head) as sock:
        assert sock.recv(65_536).startswith(b"HTTP/1.1 100 ")
        sock.sendall(CHAT)
        assert reply(sock).status == 503
    assert kept(database)[0] == 2
    # What is too large by its own words is refused before a byte of it is sent.
    refused = request("POST", "/v1/chat/completions", None, "Expect: 100-continue", "Content-Length: 99999999")
    with dial(url, refused) as sock:
        assert sock.recv(65_536).startswith(b"HTTP/1.1 413 ")
    # The last of a key that stands twice is what is checked, and what is sent.
    twice = CHAT.replace(b'{"model"', b'{"model": 5, "stream": "no", "stream": false, "model"', 1)
    assert ask(url, request("POST", "/v1/chat/completions", twice, JSON)).status == 503
    assert kept(database)[0] == 3


def filled(path: str, value: str) -> str:
    return re.sub(r"{\w+(:\w+)?}", value, path)


@on_postgres
def test_nul_in_an_id_or_a_query_is_refused_on_every_route(url: str, database: Database) -> None:
    """PostgreSQL cannot even be asked for it."""
    tried = 0
    for (path, method), words in OPERATIONS.items():
        body = b"{}" if method == "POST" else None
        if "{" in path:
            for value in ("%00", "job_%00", "file-x%00", "batch_0%00"):
                answer = ask(url, request(method, "/v1" + filled(path, value), body, JSON))
                assert answer.status == 404 and answer.error["type"] == "invalid_request_error", (path, value)
                tried += 1
        for name in (*words.query, "metadata[a]", "nothing"):
            answer = ask(url, request(method, f"{filled(path, 'x')}?limit=1&{name}=a%00", body, JSON))
            assert (answer.status, answer.error["param"]) == (400, name), (path, name)
            tried += 1
    assert tried > 150
    for name in ("metadata[%00]", "%00"):
        assert ask(url, request("GET", f"/v1/chat/completions?{name}=x")).error["code"] == "invalid_value"


@on_sqlite
def test_a_method_that_a_route_has_not_is_405_with_those_that_it_has(url: str) -> None:
    paths = sorted({path for path, _ in OPERATIONS})
    for path in paths:
        has = {method for one, method in OPERATIONS if one == path}
        has |= {"HEAD"} if "GET" in has else set()
        for method in {"OPTIONS", "PUT", "PATCH", "DELETE", "BREW", "TRACE", "HEAD", "GET"} - has:
            answer = ask(url, request(method, "/v1" + filled(path, "x"), b""), method=method)
            assert answer.status == 405, (method, path)
            assert set(answer.headers["allow"].split(", ")) == has, (method, path)
            assert method == "HEAD" or answer.error["type"] == "invalid_request_error"


@on_sqlite
def test_paths_that_are_nearly_right_are_unknown(url: str) -> None:
    """None is redirected: a client would send its body and its key again to wherever it was told."""
    paths = ["/v1", "/v1/", "/v1/files/", "/files/", "/v1//files", "//v1/files", "/v1/files//content", "/v1/files/../x"]
    paths += ["/v1/files/%", "/v1/files/%zz", "/v1/files/%ff%fe", "/v1/files/%2e%2e%2f%2e%2e", "/v1/conversations"]
    paths += ["/v1/responses/compact", "/v1/responses/input_tokens", "http://127.0.0.1/v1/nowhere", "*", "/%2fv1/files"]
    paths += ["/v1/files/" + "x" * 20_000, "/v1/files?" + "x" * 20_000, "/v1/batches/%F0%9F%98%80"]
    for path in paths:
        answer = ask(url, request("GET", path))
        assert answer.status in {400, 404}, path[:80]
        assert len(answer.error["message"]) < 500, path[:80]
    # What OpenAI serves and the gateway does not looks like a method that one of its routes has not.
    for path in ("/v1/responses/compact", "/responses/input_tokens"):
        answer = ask(url, request("POST", path, b"{}", JSON))
        assert answer.status == 404 and "not served here" in answer.error["message"], path
    socket = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AA==")
    for path in ("/v1/responses", "/responses", "/v1/realtime"):
        answer = ask(url, request("GET", path, None, *socket))
        assert (answer.status, answer.error["type"]) == (404, "invalid_request_error"), path


@on_sqlite
def test_a_target_in_absolute_form_is_its_path_and_its_host_counts(url: str, database: Database) -> None:
    """As a proxy has it. Without keys only this machine is served, whatever `Host` stands beside it."""
    for root in ("http://127.0.0.1", "HTTP://localhost:80", "https://[::1]:443"):
        assert ask(url, request("GET", f"{root}/v1/files?limit=1")).status == 200, root
        assert ask(url, request("GET", f"{root}/v1/files/%00")).status == 404, root
    assert ask(url, request("POST", "http://127.0.0.1/chat/completions", CHAT, JSON)).error["code"] == "still_running"
    assert kept(database)[0] == 1
    for target in ("http://other/v1/files", "http://other.example:80/files?limit=1"):
        assert ask(url, request("GET", target)).error["code"] == "invalid_api_key", target
    for target in ("http://127.0.0.1", "http://127.0.0.1?x", "http:///v1/files", "http://", "ftp://127.0.0.1/v1/files"):
        assert ask(url, request("GET", target)).status in {401, 404}, target


@on_sqlite
def test_a_compressed_body_is_refused_by_its_encoding(url: str, database: Database) -> None:
    """Whether it is compressed or only called so; `identity` is the body as it is."""
    for encoding in ("gzip", "br", "zstd", "deflate, gzip", "GZIP"):
        for path, body, kind in (
            ("/v1/chat/completions", gzip.compress(CHAT), JSON),
            ("/v1/jobs", CHAT, JSON),
            ("/v1/files", form(PURPOSE, FILE), "Content-Type: multipart/form-data; boundary=b"),
        ):
            answer = ask(url, request("POST", path, body, kind, f"Content-Encoding: {encoding}"))
            assert (answer.status, answer.error["code"]) == (415, "unsupported_content_encoding"), (path, encoding)
            assert answer.headers["accept-encoding"] == "identity" and answer.error["param"] == "Content-Encoding"
    assert kept(database) == [0, 0, 0, 0]
    plain = request("POST", "/v1/chat/completions", CHAT, JSON, "Content-Encoding: Identity")
    assert ask(url, plain).error["code"] == "still_running"


def test_any_moment_is_a_moment(url: str) -> None:
    """Years in which nothing was made, too; what is no moment is refused by its name."""
    for path in ("/v1/jobs", "/v1/usage", "/v1/webhooks/events"):
        for since in ("0001-01-01", "1969-12-31T23:59:59Z", "0", "9999-12-31T23:59:59%2B00:00", "253402300799"):
            assert ask(url, request("GET", f"{path}?since={since}")).status == 200, (path, since)
        for since in ("0001-01-01T00:00%2B05:00", "9999-12-31T23:59:59-12:00", "1e400", "nan", "yesterday", "", "-1"):
            answer = ask(url, request("GET", f"{path}?since={since}"))
            assert (answer.status, answer.error["param"]) == (400, "since"), (path, since)


PURPOSE = b'Content-Disposition: form-data; name="purpose"\r\n\r\nuser_data'
FILE = b'Content-Disposition: form-data; name="file"; filename="f"\r\n\r\ndata'


def form(*parts: bytes, boundary: bytes = b"b") -> bytes:
    return b"".join(b"--%b\r\n%b\r\n" % (boundary, part) for part in parts) + b"--%b--\r\n" % boundary


def named(disposition: bytes, *more: bytes) -> bytes:
    """A part whose header has this."""
    return b"\r\n".join([b"Content-Disposition: form-data; " + disposition, *more, b"", b"data"])


#: The form, and the field that is wrong with it.
FORMS: dict[str, tuple[bytes, str | None]] = {
    "a part without a name": (form(PURPOSE, named(b'filename="f"')), None),
    "a field without a name": (form(PURPOSE, FILE, b"Content-Disposition: form-data\r\n\r\nx"), None),
    "a part without headers": (form(PURPOSE, FILE, b"\r\nx"), None),
    "the word name, and no name": (form(PURPOSE, FILE, named(b"name")), None),
    "two files": (form(PURPOSE, FILE, FILE), "file"),
    "a field behind the file": (form(FILE, PURPOSE, named(b'name="color"')), "color"),
    "a file that is a field": (form(PURPOSE, named(b'name="file"')), "file"),
    "a field that is a file": (form(named(b'name="purpose"; filename="p"'), FILE), "purpose"),
    "a field twice": (form(PURPOSE, PURPOSE, FILE), "purpose"),
    "too many fields": (form(PURPOSE, FILE, *(named(b'name="x%d"' % number) for number in range(99))), "x31"),
    "a long header": (form(PURPOSE, named(b'name="file"; filename="' + b"f" * 200_000 + b'"')), None),
    "many headers": (form(PURPOSE, named(b'name="file"; filename="f"', *[b"X: y"] * 5_000)), None),
    "NUL in the name of the file": (form(PURPOSE, named(b'name="file"; filename="a\x00b"')), "file"),
    "NUL in a field": (form(PURPOSE + b"\x00", FILE), "purpose"),
    "another boundary": (form(PURPOSE, FILE, boundary=b"c"), None),
    "no end": (form(PURPOSE, FILE).removesuffix(b"--b--\r\n"), None),
    "line feeds alone": (form(PURPOSE, FILE).replace(b"\r\n", b"\n"), None),
    "only an end": (form(), "file"),
    "a time of seconds and a half": (
        form(PURPOSE, FILE, named(b'name="expires_after[anchor]"').replace(b"data", b"created_at"))
        .removesuffix(b"--b--\r\n")
        + form(named(b'name="expires_after[seconds]"').replace(b"\r\ndata", b"\r\n3600.5")),
        "expires_after.seconds",
    ),
}  # fmt: skip


def upload(url: str, body: bytes) -> Reply:
    return ask(url, request("POST", "/v1/files", body, "Content-Type: multipart/form-data; boundary=b"))


@on_postgres
def test_a_form_that_is_none_is_refused_and_leaves_nothing(url: str, database: Database) -> None:
    for name, (body, param) in FORMS.items():
        answer = upload(url, body)
        assert (answer.status, answer.error["param"]) == (400, param), (name, answer.error)
    kinds = ["multipart/form-data", 'multipart/form-data; boundary=""', "multipart/mixed; boundary=b", ";;=;", "a/b"]
    for kind in kinds:
        answer = ask(url, request("POST", "/v1/files", form(PURPOSE, FILE), f"Content-Type: {kind}"))
        assert (answer.status, answer.error["param"]) == (400, "file"), kind
    assert kept(database) == [0, 0, 0, 0]
    for whole in (form(PURPOSE, FILE), form(FILE, PURPOSE), form(PURPOSE, FILE) + b"what comes behind it"):
        assert upload(url, whole).status == 200  # or the refusals would prove nothing
    assert kept(database)[1] == 3


def test_an_upload_that_is_cut_off_leaves_nothing(url: str, database: Database) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + b"x" * 2_500_000
    kind = "Content-Type: multipart/form-data; boundary=b"
    with dial(url, request("POST", "/v1/files", None, kind, "Content-Length: 3999999") + head):
        pieces = "SELECT count(*) AS n FROM file_pieces"
        eventually(lambda: rows(database, pieces)[0]["n"] >= 2, what="pieces of it are stored")
        assert ask(url, request("GET", "/v1/files")).body.startswith(b'{"object":"list","data":[]')
    eventually(lambda: kept(database) == [0, 0, 0, 0], what="nothing of it is left")
