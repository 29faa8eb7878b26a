"""The gateway behind nginx as docs/gateway.md configures it: streams come as they are made, and a key is needed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import openai
import pytest

from tests.fakes import Workplace
from tests.rig.gateway import Gateway
from tests.rig.ports import free_port
from tests.rig.procs import Process
from tests.rig.waiting import eventually
from worker.producer.keys import Keys

PAGE = Path(__file__).parents[2] / "docs" / "gateway.md"


def config(gateway: Gateway, port: int, directory: Path) -> str:
    """The page's configuration on a port of this machine, without TLS."""
    found = re.search(r"```nginx\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    shown = found[1].replace("127.0.0.1:8484", gateway.url.removeprefix("http://"))
    shown = shown.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
    shown = re.sub(r"^ +ssl_.*\n", "", shown, flags=re.MULTILINE)
    paths = "".join(
        f"{name}_temp_path {directory / name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"daemon off; pid {directory / 'pid'}; error_log stderr; events {{}} http {{ access_log off; {paths}\n{shown} }}"


def test_streams_and_answers_pass_nginx_untouched(
    gateway: Gateway, served: Workplace, launch: Callable[..., Process], tmp_path: Path
) -> None:
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if nginx is None:
        pytest.skip("there is no nginx on this machine")
    port = free_port()
    path = tmp_path / "nginx.conf"
    path.write_text(config(gateway, port, tmp_path), encoding="utf-8")
    launch([nginx, "-c", path], name="nginx", env={})
    url = f"http://127.0.0.1:{port}/v1"

    def refused() -> bool:
        try:
            return httpx.get(f"{url}/models").status_code == 401
        except httpx.TransportError:
            return False

    eventually(refused, what="nginx serves, and nobody behind it is served without a key")
    _, secret = Keys(served.database).create("acme")
    with openai.OpenAI(base_url=url, api_key=secret) as sdk:
        events = list(sdk.responses.create(model="openai/gpt-4o-mini", input="hi", background=True, stream=True))
        rest = list(sdk.responses.retrieve(events[0].response.id, stream=True, starting_after=3))  # type: ignore[union-attr]
        with sdk.chat.completions.create(
            model="openai/gpt-4o-mini@sim:slow=200", messages=[{"role": "user", "content": "hi"}], stream=True
        ) as stream:
            first = next(iter(stream))
            job = served.get("job_" + first.id.removeprefix("chatcmpl-"))
            assert job.finished_at is None, "the first chunk came with the last"
    assert rest == events[4:] and events[-1].type == "response.completed"
