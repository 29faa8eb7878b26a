"""`doctor` finds what an application in this directory would import instead of Stockpot."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.cli.operations.name_checks import names

ROOT = Path(__file__).parents[2]


def test_a_directory_without_our_names_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`migrations` is anybody's name, a directory without modules shadows nothing, and our own tree is no stranger."""
    for name in ("migrations", "worker"):
        (tmp_path / name).mkdir()
    (tmp_path / "migrations" / "__init__.py").touch()
    for here in (tmp_path, ROOT):
        monkeypatch.chdir(here)
        assert [check.outcome for check in names()] == ["ok"]


@pytest.mark.parametrize("file", ["worker.py", "worker/__init__.py", "stockpot.py", "celery.py", "api_schemas.py"])
def test_a_file_that_stands_in_the_way_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """Here, or in a directory that is searched before ours."""
    (tmp_path / "here").mkdir()
    found = tmp_path / "lib" / file
    found.parent.mkdir(parents=True)
    found.touch()
    monkeypatch.chdir(found.parents[len(Path(file).parts) - 1])
    (check,) = names()
    assert (check.outcome, str(found) in check.detail) == ("failed", True)
    monkeypatch.chdir(tmp_path / "here")
    assert [check.outcome for check in names()] == ["ok"]
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    (check,) = names()
    assert (check.outcome, str(found) in check.detail) == ("failed", True)
