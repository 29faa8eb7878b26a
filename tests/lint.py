"""What `make lint` runs: every linter there is, each named, none hidden; the exit code is 1 when any of them complains.

All steps run even if one fails, so that one run tells everything. Warnings are printed and fail nothing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tests import chart

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

#: Longer files want their second noun moved out; a warning, because a table or a script may be one noun and long.
LONG_FILE_LINES = 400

#: Where people keep their files: in a committed file it is somebody's machine.
HOMES = re.compile(r"/(?:home|Users)/[a-z][\w.-]*/")

COMMANDS: dict[str, list[str]] = {
    "ruff check": ["ruff", "check", "--quiet", "."],
    "ruff format": ["ruff", "format", "--check", "--quiet", "."],
    "mypy --strict": ["mypy", "--no-error-summary"],
    "import contracts": ["lint-imports", "--no-logo"],
    "deptry": ["deptry", "--no-ansi", "."],
    "hadolint": ["hadolint", "--config", ".hadolint.yaml", "Dockerfile"],
    "compose schema": ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "ops/compose.yaml"],
}


def files() -> Iterator[tuple[str, str]]:
    """Name and text of every file that is, or is about to be, committed; files that are no text are left out."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, listed):
        try:
            yield name, (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue


def private_words() -> set[str]:
    """What names this machine: the checkout, the home directory, and the host of a private package index."""
    words = {str(path) for path in (ROOT, Path.home()) if len(path.parts) > 1 and len(str(path)) > len("/app")}
    for key in ("global.index-url", "global.extra-index-url"):
        done = subprocess.run(
            [sys.executable, "-m", "pip", "config", "get", key], capture_output=True, text=True, check=False
        )
        hosts = (urlsplit(url).hostname for url in done.stdout.split())
        words |= {host for host in hosts if host and host not in {"pypi.org", "localhost"}}
    return words


def machine_names() -> list[str]:
    """Lines that name this machine, somebody's home or a private registry."""
    private = re.compile("|".join(rf"{re.escape(word)}(?![\w-])" for word in sorted(private_words())) or r"(?!)")
    return [
        f"{name}:{number}: names a path of a machine or a private host"
        for name, text in files()
        for number, line in enumerate(text.splitlines(), 1)
        if private.search(line) or HOMES.search(line)
    ]


def warn_of_long_files() -> list[str]:
    """Print which Python files are long. Never a failure."""
    for name, text in files():
        length = text.count("\n")
        if name.endswith(".py") and length > LONG_FILE_LINES:
            print(f"  warning: {name} has {length} lines; above {LONG_FILE_LINES} a second noun may want its own file")
    return []


def alert_rules() -> list[str]:
    """Check the alerts and run their tests with Prometheus's own tool, where it is installed."""
    promtool = shutil.which("promtool")
    if promtool is None:
        print("  the alerts were not run: promtool is not installed (Debian and Ubuntu: apt-get install prometheus)")
        return []
    commands = (
        ["check", "rules", "ops/helm/stockpot/files/alerts.yaml"],
        ["test", "rules", "ops/prometheus/alerts_test.yaml"],
    )
    return [line for command in commands for line in _run([promtool, *command])]


CHECKS: dict[str, Callable[[], list[str]]] = {
    "machine names": machine_names,
    "long files": warn_of_long_files,
    "alert rules": alert_rules,
    "helm chart": chart.complaints,
}


def _run(command: list[str]) -> list[str]:
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return [] if done.returncode == 0 else [*done.stdout.splitlines(), f"exit code {done.returncode}"]


def main() -> int:
    """Run every step; 0 if all are content."""
    steps: dict[str, Callable[[], list[str]]] = {
        name: lambda command=command: _run(command)  # type: ignore[misc]
        for name, command in COMMANDS.items()
    }
    failed = []
    for name, step in (steps | CHECKS).items():
        started = time.monotonic()
        complaints = step()
        print(f"{'FAIL' if complaints else 'ok':4} {name} ({time.monotonic() - started:.1f} s)", flush=True)
        for complaint in complaints:
            print(f"  {complaint}")
        if complaints:
            failed.append(name)
    print(f"lint: {', '.join(failed)} failed" if failed else "lint: all good")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
