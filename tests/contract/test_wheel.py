"""The wheel is enough: built offline, installed elsewhere, it migrates a database and carries everything it needs."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
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
    """Lua scripts and migrations too."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {
        str(path.relative_to(ROOT))
        for package in ("api_schemas", "worker", "migrations")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == wanted


@pytest.mark.slow
def test_an_installed_wheel_migrates_a_database(wheel: Path, tmp_path: Path, stockpot_env: Environment) -> None:
    """`stockpot db upgrade`, from an environment that has never seen the source tree."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    paths = sysconfig.get_paths(vars={"base": str(home), "platbase": str(home)})
    site = Path(paths["purelib"])
    installed = ["pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet", str(wheel)]
    subprocess.run([sys.executable, "-m", *installed], check=True, capture_output=True, cwd=tmp_path)
    # The dependencies are those of this environment. A .pth adds them behind the wheel, so the wheel's packages win;
    # `.pth` files of that directory, the editable install of this tree among them, are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    env = stockpot_env(database_url=f"sqlite:///{tmp_path / 'wheel.db'}") | {"PATH": os.environ["PATH"]}
    where = subprocess.run(
        [python, "-c", "import worker; print(worker.__file__)"],
        env=env,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(home), "the test runs the source tree instead of the wheel"
    done = subprocess.run(
        [home / "bin" / "stockpot", "db", "upgrade"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(tmp_path / "wheel.db") as connection:
        assert connection.execute("SELECT count(*) FROM jobs_v").fetchone() == (0,)
