"""Two homes never answer on one port: a gateway that finds its port taken says so and ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.environment import environment
from worker.gateway import serving


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another home's gateway listens, as one of several that share it."""
    with serving.listen("127.0.0.1", 0, shared=True) as sock:
        yield sock.getsockname()[1]


def run(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = environment(tmp_path / "home", redis_url="redis://127.0.0.1:9/0")
    return subprocess.run([*words], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)


def test_a_single_gateway_does_not_share_a_port(tmp_path: Path, taken: int) -> None:
    """As `stockpot up` starts it, which looked for a free port a moment before."""
    done = run(tmp_path, sys.executable, "-P", "-m", *serving.command("127.0.0.1", taken))
    assert done.returncode == 1
    assert done.stderr.strip().endswith(f"cannot listen on 127.0.0.1:{taken}: Address already in use")


def test_several_gateways_share_a_port_only_with_each_other(tmp_path: Path, taken: int) -> None:
    """`--processes 2` asks the system to share; what is there already must not belong to others."""
    done = run(
        tmp_path, str(Path(sys.executable).with_name("stockpot")), "serve", "--processes", "2", "--port", str(taken)
    )
    assert done.returncode == 2
    assert f"--port: 127.0.0.1:{taken} cannot be listened on (Address already in use)" in done.stderr
