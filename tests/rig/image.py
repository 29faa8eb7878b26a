"""The image, built and run without a container engine's daemon: buildah builds it, bubblewrap runs it.

The base is Debian's own Python (mmdebstrap), since no registry may be at hand; the Dockerfile is as it is. A container runs as uid 65534
on a read-only root without a capability, with a writable /tmp and /var/lib/stockpot, in a pid namespace of its own and on the host's network.
Its program is process 1 there, as under a container engine without an init, and has the environment that the image sets.
"""

from __future__ import annotations

import ast
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psutil  # type: ignore[import-untyped]

from tests.rig.procs import Process
from tests.rig.waiting import eventually

TOOLS = ("buildah", "mmdebstrap", "bwrap", "setpriv")
ROOT = Path(__file__).parents[2]
NOBODY = 65534
HOME = "/var/lib/stockpot"
_BASE, _IMAGE = "localhost/stockpot-test-base", "localhost/stockpot-test"


def missing() -> str | None:
    """Why the image cannot be built here; None when it can."""
    if os.geteuid() != 0:
        return "building an image needs root"
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else None


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout.strip()


def pip_settings(listed: str) -> dict[str, str]:
    """What `pip config list` has for all commands, one of the environment before one of a file."""
    found = re.findall(r"^(global|:env:)\.([a-z-]+)=(.*)$", listed, re.MULTILINE)
    return {
        name: ast.literal_eval(value) for _, name, value in sorted(found, key=lambda one: str(one[0]), reverse=True)
    }


def local_paths(settings: Mapping[str, str]) -> Iterator[Path]:
    """The files and directories of this machine that such settings name."""
    for word in " ".join(settings.values()).split():
        url = urlsplit(word)
        path = Path(unquote(url.path))
        if url.scheme in ("", "file") and path.is_absolute() and path.exists():
            yield path


def _shared(directory: Path) -> Iterator[str]:
    """Options that show the build what pip needs of this machine: its configuration, and what that names."""
    settings = pip_settings(_run(sys.executable, "-m", "pip", "config", "list"))
    if bundle := os.environ.get("REQUESTS_CA_BUNDLE"):
        settings.setdefault("cert", bundle)
    config = configparser.RawConfigParser()
    config["global"] = settings
    with (directory / "pip.conf").open("w", encoding="utf-8") as file:
        config.write(file)
    yield from ("-v", f"{directory / 'pip.conf'}:/etc/pip.conf:ro")
    for path in dict.fromkeys(local_paths(settings)):
        # A package's page on disk refers to files beside it.
        place = path.parent if path.name == "simple" else path
        yield from ("-v", f"{place}:{place}:ro")


class Image:
    """The built image, mounted; `close` removes it."""

    def __init__(self, directory: Path) -> None:
        base = directory / "base.tar"
        _run("mmdebstrap", "--variant=minbase", "--include=ca-certificates,python3,python3-venv", "bookworm", str(base))
        container = _run("buildah", "from", "scratch")
        _run("buildah", "add", container, str(base), "/")
        base.unlink()
        _run("buildah", "run", "--isolation=chroot", container, "--", "ln", "-s", "python3", "/usr/bin/python")
        _run("buildah", "commit", "-q", container, _BASE)
        _run("buildah", "rm", container)
        # Docker's format: OCI's has no health check, and the instruction would be left out.
        build = ["buildah", "bud", "--format=docker", "--isolation=chroot", "--network=host"]
        _run(*build, "--build-arg", f"PYTHON={_BASE}", *_shared(directory), "-t", _IMAGE, ".")
        self._container = _run("buildah", "from", _IMAGE)
        self.root = Path(_run("buildah", "mount", self._container))
        self.config: dict[str, Any] = json.loads(_run("buildah", "inspect", "--type=image", _IMAGE))["Docker"]["config"]
        self.home = directory / "home"
        self.home.mkdir()
        os.chown(self.home, NOBODY, NOBODY)

    def command(self, *words: str, env: Mapping[str, str], files: Iterable[tuple[Path, str]] = ()) -> list[str]:
        """The command that runs these words, or else what the image runs, in a container that also has these files."""
        given = dict(line.split("=", 1) for line in self.config["Env"]) | dict(env)
        settings = [word for name, value in given.items() for word in ("--setenv", name, value)]
        shown = [word for outside, place in files for word in ("--ro-bind", str(outside), place)]
        return [
            *("bwrap", "--unshare-pid", "--as-pid-1", "--die-with-parent", "--ro-bind", str(self.root), "/"),
            *("--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp", "--bind", str(self.home), HOME),
            *(*shown, "--clearenv", *settings, "--chdir", self.config["WorkingDir"], "--"),
            *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"),
            *("--inh-caps=-all", "--bounding-set=-all", *(words or self.config["Cmd"])),
        ]

    def run(
        self, *words: str, env: Mapping[str, str], files: Iterable[tuple[Path, str]] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        command = self.command(*words, env=env, files=files)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    def start(self, *words: str, env: Mapping[str, str], logs: Path, name: str) -> Process:
        """Start a command that goes on."""
        return Process(self.command(*words, env=env), logs=logs, name=name)

    def close(self) -> None:
        """Remove the container and both images."""
        commands: Sequence[Sequence[str]] = (
            ("buildah", "umount", self._container),
            ("buildah", "rm", self._container),
            ("buildah", "rmi", _IMAGE, _BASE),
        )
        for command in commands:
            subprocess.run(command, capture_output=True, check=False)


def first(container: Process) -> psutil.Process:
    """Process 1 of a container, once it is the program that it runs: what an engine sends its signals to."""

    def found() -> psutil.Process | None:
        for one in psutil.Process(container.pid).children(recursive=True):
            status = Path(f"/proc/{one.pid}/status").read_text(encoding="utf-8")
            if re.search(r"^NSpid:.*\t1$", status, re.MULTILINE) and one.name() not in TOOLS:
                return one
        return None

    return eventually(found, what=f"{container.name} runs")
