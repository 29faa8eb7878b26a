"""`/files` through the gateway: the unmodified SDK, and what a careless or hostile client sends."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from structlog.testing import capture_logs

from tests.factories import rows
from tests.fakes import Workplace
from tests.file_factories import jsonl, line
from tests.rig.faultproxy import FaultProxy
from tests.rig.gateway import Gateway
from tests.rig.waiting import eventually

LINES = jsonl(*(line(one) for one in range(1, 4)))


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error body, with all four keys."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_the_sdk_stores_reads_lists_and_deletes(gateway: Gateway) -> None:
    """Every call of `client.files`, paging included."""
    with gateway.sdk() as sdk:
        made = sdk.files.create(file=("prompts ü.jsonl", LINES), purpose="batch")
        assert made.id.startswith("file-") and (made.bytes, made.filename) == (len(LINES), "prompts ü.jsonl")
        assert made.expires_at == made.created_at + 30 * 86_400
        assert sdk.files.wait_for_processing(made.id).status == "processed"
        content = sdk.files.content(made.id)
        assert content.read() == LINES and content.response.headers["content-type"] == "application/octet-stream"
        assert "filename*=UTF-8''prompts%20%C3%BC.jsonl" in content.response.headers["content-disposition"]
        others = [
            sdk.files.create(file=b"x", purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3_600})
            for _ in range(3)
        ]
        assert others[0].expires_at == others[0].created_at + 3_600
        newest_first = [one.id for one in reversed(others)] + [made.id]
        assert [one.id for one in sdk.files.list(limit=1)] == newest_first
        assert [one.id for one in sdk.files.list(limit=3, order="asc")] == newest_first[::-1]
        assert [one.id for one in sdk.files.list(purpose="batch")] == [made.id]
        assert sdk.files.delete(made.id).deleted
        for call in (sdk.files.delete, sdk.files.retrieve, sdk.files.content):
            with pytest.raises(openai.NotFoundError):
                call(made.id)
        assert [one.id for one in sdk.files.list()] == newest_first[:3]


def test_an_empty_list_is_a_list(gateway: Gateway) -> None:
    with gateway.http() as http:
        assert http.get("/v1/files").json() == {
            "object": "list",
            "data": [],
            "first_id": "",
            "last_id": "",
            "has_more": False,
        }


def test_a_range_is_answered_with_that_part(gateway: Gateway) -> None:
    """206, 416, and all of it where the header is none."""
    data = bytes(range(256)) * 40
    with gateway.http() as http:
        made = http.post("/files", data={"purpose": "vision"}, files={"file": ("f", data)}).json()
        url = f"/v1/files/{made['id']}/content"
        whole = http.get(url)
        assert whole.headers["etag"] == f'"{hashlib.sha256(data).hexdigest()}"' and whole.content == data
        for asked, start, end in [
            ("0-0", 0, 1),
            ("100-199", 100, 200),
            ("10000-", 10_000, 10_240),
            ("-5", 10_235, 10_240),
        ]:
            part = http.get(url, headers={"range": f"bytes={asked}"})
            assert (part.status_code, part.content) == (206, data[start:end])
            assert part.headers["content-range"] == f"bytes {start}-{end - 1}/10240"
        for asked in ("items=0-1", "bytes=5-1", "bytes=0-1,5-6", "bytes=x-y"):
            assert http.get(url, headers={"range": asked}).status_code == 200
        behind = http.get(url, headers={"range": "bytes=10240-"})
        error_of(behind, 416)
        assert behind.headers["content-range"] == "bytes */10240"
        other = http.get(url, headers={"range": "bytes=0-0", "if-range": '"another"'})
        assert (other.status_code, len(other.content)) == (200, 10_240)
        head = http.head(url)
        assert (head.status_code, head.headers["content-length"], head.content) == (200, "10240", b"")
    port = int(urlsplit(gateway.url).port or 0)
    with FaultProxy("127.0.0.1", port) as proxy, httpx.Client(base_url=f"http://127.0.0.1:{proxy.port}") as http:
        proxy.cut_after(5_000, "to_client")
        got = b""
        with pytest.raises(httpx.TransportError), http.stream("GET", url) as answer:
            for piece in answer.iter_raw():
                got += piece
        assert 0 < len(got) < len(data) and proxy.stats().cuts
        rest = http.get(url, headers={"range": f"bytes={len(got)}-", "if-range": whole.headers["etag"]})
        assert (rest.status_code, got + rest.content) == (206, data)


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str | None, str]] = [
    ("no file", {"purpose": "batch"}, {}, "file", "missing_required_parameter"),
    ("no purpose", {}, {"file": ("f", b"x")}, "purpose", "missing_required_parameter"),
    ("bad purpose", {"purpose": "fun"}, {"file": ("f", b"x")}, "purpose", "invalid_value"),
    ("a field too many", {"purpose": "batch", "color": "red"}, {"file": ("f", LINES)}, "color", "unknown_parameter"),
    (
        "a file too many",
        {"purpose": "batch"},
        {"file": ("f", LINES), "other": ("g", b"x")},
        "other",
        "unknown_parameter",
    ),
    ("not json", {"purpose": "batch"}, {"file": ("f", b"hello\nworld")}, "file", "invalid_file_format"),
    ("empty", {"purpose": "batch"}, {"file": ("f", b"")}, "file", "invalid_file_format"),
    ("no objects", {"purpose": "batch"}, {"file": ("f", b"1\n[2]\n")}, "file", "invalid_file_format"),
    (
        "bad anchor",
        {"purpose": "batch", "expires_after[anchor]": "now", "expires_after[seconds]": "3600"},
        {"file": ("f", LINES)},
        "expires_after.anchor",
        "invalid_value",
    ),
    (
        "too short",
        {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "60"},
        {"file": ("f", LINES)},
        "expires_after.seconds",
        "invalid_value",
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[0])
def test_a_bad_form_is_refused_with_its_field(gateway: Gateway, case: tuple[Any, ...]) -> None:
    """And leaves nothing behind that anybody sees."""
    _, data, files, param, code = case
    with gateway.http() as http:
        fields: Any = files or {"unused": (None, b"x")}
        error = error_of(http.post("/v1/files", data=data, files=fields), 400)
        if files:
            assert (error["param"], error["code"]) == (param, code)
        assert http.get("/v1/files").json()["data"] == []


def test_one_good_line_is_enough_and_the_rest_is_the_batchs(gateway: Gateway) -> None:
    with gateway.sdk() as sdk:
        assert sdk.files.create(file=b"nope\n" + LINES, purpose="batch").status == "processed"


BOUNDARY = b"--b\r\nContent-Disposition: form-data; "
FORM = BOUNDARY + b'name="purpose"\r\n\r\nuser_data\r\n' + BOUNDARY + b'name="file"; filename="f"\r\n\r\ndata\r\n'


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data; boundary=b", FORM),
        ("multipart/form-data; boundary=b", FORM[:-9]),
        ("multipart/form-data; boundary=b", b"no boundary at all"),
        ("multipart/form-data; boundary=b", b"--b\r\nno header\r\n\r\n"),
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data", FORM),
        ("application/json", b'{"purpose": "batch"}'),
        ("multipart/form-data; boundary=" + "b" * 5_000, FORM),
        ("multipart/form-data; boundary=b", BOUNDARY + b'name="file"\r\n\r\nno filename\r\n--b--\r\n'),
        ("multipart/form-data; boundary=b", FORM + BOUNDARY + b'name="file"; filename="g"\r\n\r\n2\r\n--b--\r\n'),
        ("multipart/form-data; boundary=b", BOUNDARY + b"X: " + b"x" * 100_000 + b"\r\n\r\n"),
        ("multipart/form-data; boundary=b", BOUNDARY + b'name="x"\r\n\r\n' + b"x" * 100_000 + b"\r\n--b--\r\n"),
    ],
)
def test_a_malformed_form_is_refused(gateway: Gateway, kind: str, body: bytes) -> None:
    """Cut off, without boundaries, of another kind, doubled, swollen: 400, and no file."""
    with gateway.http() as http:
        error_of(http.post("/v1/files", content=body, headers={"content-type": kind}), 400)
        assert http.get("/v1/files").json()["data"] == []


def test_a_good_form_is_no_malformed_one(gateway: Gateway) -> None:
    """Or the refusals above would prove nothing."""
    with gateway.http() as http:
        headers = {"content-type": "multipart/form-data; boundary=b"}
        answer = http.post("/v1/files", content=FORM + b"--b--\r\n", headers=headers)
    assert answer.status_code == 200 and answer.json()["bytes"] == 4


def test_an_upload_whose_connection_is_lost_leaves_no_file(gateway: Gateway, served: Workplace) -> None:
    """Neither visible, nor, once it is collected, in the database."""
    host = urlsplit(gateway.url)
    head = f"POST /v1/files HTTP/1.1\r\nHost: {host.netloc}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    body = (
        BOUNDARY + b'name="file"; filename="f"\r\n\r\n' + b"x" * 5_000_000
    )  # a piece at least, wherever files are kept
    with socket.create_connection((host.hostname, host.port)) as client:
        client.sendall(f"{head}Content-Length: 9000000\r\n\r\n".encode() + body)
        eventually(lambda: rows(served.database, "SELECT count(*) AS n FROM file_pieces")[0]["n"] >= 1)
    eventually(lambda: rows(served.database, "SELECT count(*) AS n FROM files")[0]["n"] == 0)
    assert rows(served.database, "SELECT count(*) AS n FROM file_pieces")[0]["n"] == 0


def test_a_file_that_is_too_large_is_refused(served: Workplace) -> None:
    """Said in advance or not, with the answer although the client is still sending; a batch's has a limit of its own."""
    settings = served.settings.model_copy(update={"max_file_bytes": 4_000_000, "max_batch_file_bytes": 1_000_000})
    with Gateway(settings) as gateway, gateway.http() as http:

        def form(size: int, purpose: str = "user_data") -> Any:
            yield BOUNDARY + b'name="purpose"\r\n\r\n' + purpose.encode() + b"\r\n"
            yield BOUNDARY + b'name="file"; filename="f"\r\n\r\n'
            yield jsonl(line(1)) if purpose == "batch" else b""
            for _ in range(size // 100_000):
                yield b"x" * 100_000
            yield b"\r\n--b--\r\n"

        headers = {"content-type": "multipart/form-data; boundary=b"}
        for size, purpose, setting in [(6_000_000, "user_data", "FILE"), (2_000_000, "batch", "BATCH_FILE")]:
            error = error_of(http.post("/v1/files", content=form(size, purpose), headers=headers), 413)
            assert error["code"] == "file_too_large" and f" STOCKPOT_MAX_{setting}_BYTES " in error["message"]
        error_of(http.post("/v1/files", content=b"".join(form(6_000_000)), headers=headers), 413)
        assert http.post("/v1/files", content=form(3_900_000), headers=headers).status_code == 200
        assert len(http.get("/v1/files").json()["data"]) == 1


def test_a_bad_query_of_a_list_is_refused_with_its_parameter(gateway: Gateway) -> None:
    """On every list of OpenAI's wire: nothing that was asked is left out, and an unknown place is never page one."""
    with gateway.sdk() as sdk, gateway.http() as http:
        ask: Any = {"model": "openai/gpt-4o-mini", "store": True}
        message: Any = {"role": "user", "content": "hi"}
        chats = [sdk.chat.completions.create(**ask, messages=[message], metadata={"k": "v"}).id for _ in range(2)]
        response = sdk.responses.create(**ask, input=[message] * 3).id
        lists = {
            "/v1/files": 10_000,
            "/v1/batches": 100,
            "/v1/chat/completions": 100,
            f"/v1/chat/completions/{chats[0]}/messages": 100,
            f"/v1/responses/{response}/input_items": 100,
        }
        for path, most in lists.items():
            for query in ("limit=0", f"limit={most + 1}", "limit=ten", "limit=-1", "limit=", "limit=1&limit=2"):
                assert error_of(http.get(f"{path}?{query}"), 400)["param"] == "limit", (path, query)
            for name in ("order=up", "order=", "color=red", "before=x"):
                assert error_of(http.get(f"{path}?{name}"), 400)["param"] == name.partition("=")[0], (path, name)
            for after in ("nope", "", "file-" + "0" * 32, "batch_" + "0" * 32, "chatcmpl-" + "0" * 32):
                answer = http.get(path, params={"after": after})
                error_of(answer, answer.status_code)
                assert answer.status_code in {400, 404}, (path, after)
            assert http.get(f"{path}?limit={most}").status_code == 200, path
        # What the SDKs send is taken: pages of one, lists of values, filters.
        items: Any = sdk.responses.input_items.list(
            response, limit=1, order="asc", include=["message.input_image.image_url", "reasoning.encrypted_content"]
        )
        assert len({item.id for item in items}) == 3
        for order in ("asc", "desc"):
            found = [one.id for one in sdk.chat.completions.list(limit=1, order=order, metadata={"k": "v"})]
            assert found == (chats if order == "asc" else chats[::-1])
        assert http.get("/v1/chat/completions?metadata[k]=v&metadata[k]=w").status_code == 400


def test_nothing_of_a_files_content_is_in_an_error(gateway: Gateway) -> None:
    """An id from a stranger comes back cut, as text."""
    with gateway.http() as http:
        error = error_of(http.get(f"/v1/files/{'x' * 3_000}/content"), 404)
    assert len(json.dumps(error)) < 400


def test_a_reader_that_does_not_read_is_cut_off(served: Workplace) -> None:
    """It has held a piece and the socket's buffer, and knows by the length that it has not all."""
    settings = served.settings.model_copy(update={"gateway_send_seconds": 0.3})
    with capture_logs() as logs, Gateway(settings) as gateway, gateway.http() as http:
        size = 24_000_000
        form: dict[str, Any] = {"data": {"purpose": "user_data"}, "files": {"file": ("f", bytes(size))}}
        file = http.post("/files", **form).json()["id"]
        host = urlsplit(gateway.url)
        with socket.create_connection((host.hostname, host.port)) as client:
            client.sendall(f"GET /files/{file}/content HTTP/1.1\r\nHost: {host.netloc}\r\n\r\n".encode())
            eventually(lambda: any(one["event"] == "slow_reader_cut_off" for one in logs))
            received = 0
            with contextlib.suppress(ConnectionResetError):
                while part := client.recv(1_000_000):
                    received += len(part)
        assert received < size
        assert http.get("/livez").status_code == 200
