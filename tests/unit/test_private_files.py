"""Files that hold prompts, answers and keys are their owner's, whatever the umask and whatever mode they had before."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from worker.base import private, telemetry
from worker.base.payloads import Payloads
from worker.base.settings import Settings
from worker.batches.result_files import Files
from worker.db.connect import Database
from worker.db.ready import ensure_schema
from worker.files import place
from worker.webhooks.secrets import Vault


@pytest.fixture(
    autouse=True, params=[0o000, 0o022, 0o077, 0o277], ids=["umask-000", "umask-022", "umask-077", "umask-277"]
)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """The most open one, the usual one, and one that takes the owner's own rights."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    """The permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def use(home: Path, url: str = "") -> None:
    """Make the tables and hold a write open, so that the log and its index are there, then look at all modes."""
    settings = Settings(home=home, database_url=url)
    ensure_schema(settings)
    Vault.of(settings).seal("x")
    database = Database(settings, pool_size=1)
    try:
        with database.engine.begin() as conn:
            conn.execute(text("UPDATE jobs SET tenant = tenant"))
            file = Path(str(database.engine.url.database))
            found = {one.name: mode(one) for one in file.parent.iterdir() if one.is_file()}
            assert {file.name, f"{file.name}-wal", f"{file.name}-shm"} <= set(found)
            assert set(found.values()) == {0o600}, found
    finally:
        database.close()


def test_a_new_home_and_its_database_are_private(tmp_path: Path) -> None:
    """The database, its log and index, the secret key; the directories above them that were missing, too."""
    home = tmp_path / "deep" / "home"
    use(home)
    assert (mode(home), mode(home.parent)) == (0o700, 0o700)
    assert mode(home / "secret.key") == 0o600


def test_what_was_open_before_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of an earlier version, with its files."""
    home = tmp_path / "home"
    use(home)
    for one in home.iterdir():
        one.chmod(0o644)
    home.chmod(0o755)
    use(home)
    assert mode(home) == 0o700


def test_a_database_elsewhere_is_closed_and_its_directory_is_left_alone(tmp_path: Path) -> None:
    """The directory is the user's."""
    place = tmp_path / "srv"
    place.mkdir()
    place.chmod(0o755)
    use(tmp_path / "home", f"sqlite:///{place / 'jobs.db'}")
    assert mode(place) == 0o755


def test_directories_that_are_not_ours_alone_keep_their_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`STOCKPOT_HOME=.` closes no project, `STOCKPOT_HOME=/tmp` no machine."""
    project = tmp_path / "project" / "sub"
    private.make_directory(project)
    sticky = tmp_path / "sticky"
    sticky.mkdir()
    modes = {project: 0o755, project.parent: 0o755, sticky: 0o1777}
    for path, bits in modes.items():
        path.chmod(bits)
    monkeypatch.chdir(project)
    for path in modes:
        private.make_directory(path)
    assert {path: mode(path) for path in modes} == modes


@pytest.mark.parametrize("grows", [False, True])
def test_exports_are_private_unless_they_are_shared(tmp_path: Path, *, grows: bool, umask: int) -> None:
    """Also over a file that was there before with another mode."""
    out = tmp_path / "out.jsonl"
    out.write_bytes(b"old\n")
    out.chmod(0o644)
    with Files(str(out), None, grows=grows, force=True):
        pass
    assert mode(out) == 0o600
    out.unlink()
    with Files(str(out), None, grows=grows, shared=True):
        pass
    assert mode(out) == 0o666 & ~umask


def test_stored_files_of_a_folder_are_private(tmp_path: Path) -> None:
    """The folder where it was missing, that of each file, and every piece; a folder that was there keeps its mode."""
    payloads = Payloads.of(Settings(home=tmp_path))
    there = tmp_path / "there"
    there.mkdir()
    there.chmod(0o755)
    for folder in (tmp_path / "new" / "files", there):
        place.put(str(folder), "file-1", 0, b"a prompt", payloads)
        assert (mode(folder / "file-1"), mode(folder / "file-1" / f"{0:015d}")) == (0o700, 0o600)
        assert place.get(str(folder), "file-1", 0, 8, payloads) == b"a prompt"
    assert (mode(tmp_path / "new" / "files"), mode(there)) == (0o700, 0o755)


def test_a_log_stays_private_after_it_was_rotated(tmp_path: Path) -> None:
    """Who moves it away finds a new one like it."""
    path = tmp_path / "worker.log"
    handler = telemetry._PrivateFile(str(path))
    record = logging.makeLogRecord({"msg": "x"})
    try:
        for name in ("1", "2"):
            handler.emit(record)
            assert mode(path) == 0o600
            path.rename(tmp_path / name)
    finally:
        handler.close()


def test_what_writes_in_place_of_a_file_is_private_while_it_is_written(tmp_path: Path) -> None:
    """An export appears whole; until then it is `.part` beside its place."""
    with Files(str(tmp_path / "out.jsonl"), None, grows=False, force=True):
        [part] = tmp_path.glob("*.part")
        assert mode(part) == 0o600


def test_a_key_that_was_open_is_closed(tmp_path: Path) -> None:
    """The key of webhook secrets, of an earlier version or copied from another machine."""
    use(tmp_path / "home")
    (tmp_path / "home" / "secret.key").chmod(0o644)
    Vault.of(Settings(home=tmp_path / "home")).seal("x")
    assert mode(tmp_path / "home" / "secret.key") == 0o600


def test_a_directory_is_no_file_and_keeps_its_mode(tmp_path: Path) -> None:
    """As a log file's name, or a database's."""
    before = mode(tmp_path)
    with pytest.raises(IsADirectoryError):
        private.make_file(tmp_path)
    assert mode(tmp_path) == before
