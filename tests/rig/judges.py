"""Programs that others wrote, in environments of their own: what they need is no dependency of ours.

An environment is made when a test first asks for it, under `build/judges`, and is kept; where the packages cannot be
had, the test is skipped and gives the reason.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PLACE = _ROOT / "build" / "judges"
#: Seconds for an installation.
_PATIENCE = 100

#: Where no registry answers, the test is to be skipped soon.
_PIP_GIVES_UP = ("--retries", "1", "--timeout", "10")
_NPM_GIVES_UP = ("--fetch-retries", "0", "--fetch-timeout", "10000")


def _made(kind: str, packages: tuple[str, ...], *commands: list[str]) -> Path:
    """The folder of these packages, made by the commands (`{}` is the folder), once for all test processes."""
    folder = _PLACE / f"{kind}-{hashlib.sha256(repr((sys.version, packages)).encode()).hexdigest()[:12]}"
    _PLACE.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            for command in commands:
                filled = [part.replace("{}", str(folder)) for part in command]
                try:
                    subprocess.run(filled, capture_output=True, text=True, check=True, timeout=_PATIENCE)
                except subprocess.SubprocessError as error:
                    pytest.skip(f"these packages cannot be installed here: {', '.join(packages)}: {error}")
            (folder / "complete").touch()
    return folder


def python(*packages: str, with_product: bool = False) -> Path:
    """The interpreter of an environment with these packages; `with_product` also imports what this one can."""
    pip = ["{}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *_PIP_GIVES_UP, *packages]
    folder = _made("python", packages, [sys.executable, "-m", "venv", "{}"], pip)
    if with_product:
        site = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        (site / "zz_product.pth").write_text(f"{sysconfig.get_path('purelib')}\n{_ROOT}\n")
    return folder / "bin" / "python"


def node(program: Path, *packages: str) -> list[str]:
    """The command of a program for Node beside which these packages are installed."""
    found, npm = shutil.which("node"), shutil.which("npm")
    if found is None or npm is None:
        pytest.skip("there is no node, or no npm, on this machine")
    install = [
        npm,
        "install",
        *_NPM_GIVES_UP,
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--prefix",
        "{}",
        *packages,
    ]
    folder = _made("node", packages, install)
    # Modules are looked for from the program's own folder upwards.
    copy = folder / f"{os.getpid()}-{program.name}"
    shutil.copyfile(program, copy)
    return [found, str(copy)]


def run(
    command: list[str], *, cwd: Path, seconds: float = 200, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it in this folder, with nothing in its environment but this and the path; its output is text."""
    bare = {"PATH": os.environ["PATH"], "HOME": str(cwd), **(env or {})}
    return subprocess.run(command, cwd=cwd, env=bare, capture_output=True, text=True, check=False, timeout=seconds)
