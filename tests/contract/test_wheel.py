"""The wheel is enough: built offline, installed elsewhere, it migrates a database and carries everything it needs."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Environment = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built with the build backend that is installed: no network."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_carries_every_source_file_and_nothing_of_the_tests(wheel: Path) -> None:
    """Lua scripts and migrations too: these inside `worker`, since their own name is everybody's."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {
        str(path.relative_to(ROOT)).replace("migrations/", "worker/migrations/", 1)
        for package in ("api_schemas", "worker", "migrations", "stockpot")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == wanted


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executables of an environment that has the wheel, and has never seen the source tree."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    paths = sysconfig.get_paths(vars={"base": str(home), "platbase": str(home)})
    site = Path(paths["purelib"])
    command = ["pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet", str(wheel)]
    subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True, cwd=home)
    # The dependencies are those of this environment. A .pth adds them behind the wheel, so the wheel's packages win;
    # `.pth` files of that directory, the editable install of this tree among them, are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A project with modules of our names: whoever imports one ends."""
    for name in ("worker.py", "migrations/__init__.py", "migrations/env.py", "celery.py", "api_schemas/__init__.py"):
        file = tmp_path / "project" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'raise SystemExit("the shadow {name} was imported")')
    return tmp_path / "project"


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(installed: Path, tmp_path: Path, stockpot_env: Environment) -> Run:
    """Run a program of that environment."""
    env = stockpot_env(database_url=f"sqlite:///{tmp_path / 'wheel.db'}") | {"PATH": os.environ["PATH"]}

    def go(program: str, *arguments: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [installed / program, *arguments], env=env, cwd=cwd, capture_output=True, text=True, check=False
        )

    return go


@pytest.mark.slow
def test_an_installed_wheel_migrates_a_database_in_a_hostile_directory(
    run: Run, installed: Path, tmp_path: Path, hostile: Path
) -> None:
    """`stockpot db upgrade`, where a project has a `worker.py` and `migrations` of its own."""
    where = run("python", "-c", "import worker; print(worker.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(installed.parent), "the source tree instead of the wheel"
    done = run("stockpot", "db", "upgrade", cwd=hostile)
    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(tmp_path / "wheel.db")) as connection:
        assert connection.execute("SELECT count(*) FROM jobs_v").fetchone() == (0,)


@pytest.mark.slow
def test_stockpot_is_imported_by_its_own_name_or_says_what_shadows_it(run: Run, tmp_path: Path, hostile: Path) -> None:
    """One sentence that names the file; every public name is there; `doctor` finds the file, too."""
    script = (
        "import stockpot, worker\nassert all(getattr(stockpot, one) is getattr(worker, one) for one in worker.__all__)"
    )
    (tmp_path / "app.py").write_text(script)
    done = run("python", "app.py")
    assert done.returncode == 0, done.stderr
    (hostile / "app.py").write_text("from stockpot import Stockpot")
    refused = run("python", "app.py", cwd=hostile)
    assert refused.stderr.splitlines()[-1].startswith(
        f"ImportError: {hostile / 'worker.py'} shadows Stockpot's package `worker`: rename it"
    )
    doctor = run("stockpot", "doctor", "--json", cwd=hostile)
    found = next(one for one in json.loads(doctor.stdout)["checks"] if one["name"] == "names")
    assert found["outcome"] == "failed"
    assert all(str(hostile / name) in found["detail"] for name in ("worker.py", "celery.py", "api_schemas/__init__.py"))


APPLICATION = """\
from stockpot import AsyncStockpot, JobOptions, Stockpot
import worker
body = {"model": "m"}
options: JobOptions = {"max_attempts": 3, "lane": "bulk"}
text: str | None = Stockpot().wait(Stockpot().submit(body, **options).id).text
Stockpot().submit(body, idempotancy_key="k")
worker.Stockpot().submit(body, lane="fast")
Stockpot().list(status="done")
Stockpot().batches.submit("f", max_cots_usd=5)
Stockpot().budgets.set(5, period="week")
worker.Stockpots
from stockpot import Nothing
async def main() -> None:
    await AsyncStockpot().submit(body, idempotancy_key="k")
    await AsyncStockpot().batches.submit("f", max_cots_usd=5)
    await AsyncStockpot().list(status="done")
    (await AsyncStockpot().get("job_1")).cost_usd
"""


@pytest.mark.slow
def test_mypy_knows_the_types_of_an_installed_wheel(installed: Path, tmp_path: Path) -> None:
    """`py.typed`, under both names: misspelt options, wrong literals and names that are none are errors, and no more."""
    program = tmp_path / "application.py"
    program.write_text(APPLICATION)
    command = ["-m", "mypy", "--strict", "--config-file", "", "--python-executable", str(installed / "python")]
    done = subprocess.run(
        [sys.executable, *command, "--cache-dir", str(tmp_path / "cache"), str(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    wrong = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    assert wrong == {6, 7, 8, 9, 10, 11, 12, 14, 15, 16}, done.stdout + done.stderr
