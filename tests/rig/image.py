"""The image, built and run without a container engine's daemon: buildah builds it, bubblewrap runs it.

The base is Debian's own Python (mmdebstrap), since no registry may be at hand; the Dockerfile is as it is. A container runs as uid 65534
on a read-only root without a capability, with a writable /tmp and /var/lib/stockpot, in a pid namespace of its own and on the host's network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.rig.procs import Process

TOOLS = ("buildah", "mmdebstrap", "bwrap", "setpriv")
ROOT = Path(__file__).parents[2]
NOBODY = 65534
_BASE, _IMAGE = "localhost/stockpot-test-base", "localhost/stockpot-test"
#: What pip needs of this machine to find packages, where it is there: certificates and its configuration.
_SHARED = ("/etc/ssl/certs", "/etc/pip.conf", "/opt/wheels", "/opt/pypi")


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


class Image:
    """The built image, mounted; `close` removes it."""

    def __init__(self, directory: Path) -> None:
        base = directory / "base.tar"
        _run("mmdebstrap", "--variant=minbase", "--include=ca-certificates,python3,python3-venv", "bookworm", str(base))
        container = _run("buildah", "from", "scratch")
        _run("buildah", "add", container, str(base), "/")
        _run("buildah", "run", "--isolation=chroot", container, "--", "ln", "-s", "python3", "/usr/bin/python")
        _run("buildah", "commit", "-q", container, _BASE)
        _run("buildah", "rm", container)
        shared = [word for path in _SHARED if Path(path).exists() for word in ("-v", f"{path}:{path}:ro")]
        build = ["buildah", "bud", "--isolation=chroot", "--network=host", "--build-arg", f"PYTHON={_BASE}", *shared]
        _run(*build, "-t", _IMAGE, ".")
        self._container = _run("buildah", "from", _IMAGE)
        self.root = Path(_run("buildah", "mount", self._container))
        self.home = directory / "home"
        self.home.mkdir()
        os.chown(self.home, NOBODY, NOBODY)

    def command(self, *words: str, env: Mapping[str, str]) -> list[str]:
        """The command that runs these words in a container."""
        settings = [word for name, value in env.items() for word in ("--setenv", name, value)]
        return [
            *("bwrap", "--unshare-pid", "--die-with-parent", "--ro-bind", str(self.root), "/", "--proc", "/proc"),
            *("--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp", "--bind", str(self.home), "/var/lib/stockpot"),
            *(
                "--clearenv",
                "--setenv",
                "PATH",
                "/opt/stockpot/bin:/usr/bin:/bin",
                "--setenv",
                "HOME",
                "/var/lib/stockpot",
            ),
            *("--setenv", "STOCKPOT_HOME", "/var/lib/stockpot", *settings, "--chdir", "/var/lib/stockpot", "--"),
            *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"),
            *("--inh-caps=-all", "--bounding-set=-all", *words),
        ]

    def run(self, *words: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(self.command(*words, env=env), capture_output=True, text=True, check=False, timeout=120)

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
