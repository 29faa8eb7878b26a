"""Every recording and every case that `docs/upstreams.md` names is there, and every recording is named."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.integration.test_engine_answers import ANSWERS
from tests.reported_answers import CHAT
from tests.reported_cases import CASES as REPORTED
from tests.reported_responses import RESPONSES
from tests.rig import recordings
from tests.unit.test_upstream_habits import STREAMS
from worker.base.base_url import BaseUrl
from worker.base.settings import load

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "upstreams.md").read_text(encoding="utf-8")
TABLE = DOCS.split("## Settings by provider\n")[1].strip().split("\n\n")[0]
CASES: dict[str, Collection[str]] = {
    "chat": CHAT,
    "responses": RESPONSES,
    "stream": STREAMS,
    "job": ANSWERS,
    "report": REPORTED,
}
NAMED = re.findall(r"`(chat|responses|stream|job|report):([^`]+)`", TABLE)


def test_the_recordings_of_the_table_are_those_that_there_are() -> None:
    assert set(re.findall(r"`((?:chat|responses)/[^`]+)`", TABLE)) == set(recordings.NAMES)


@pytest.mark.parametrize(("kind", "name"), sorted(set(NAMED)))
def test_a_case_of_the_table_is_one(kind: str, name: str) -> None:
    assert name in CASES[kind]


def test_each_provider_names_what_it_was_tested_with() -> None:
    rows = TABLE.splitlines()[2:]
    assert len(rows) > 12
    assert [row for row in rows[1:] if not re.search(r"`(chat|responses|stream|job|report)[:/]", row)] == []


def test_the_files_that_the_page_names_are_there() -> None:
    named = set(re.findall(r"`(tests/[^`]+)`", DOCS))
    assert len(named) > 5
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_the_settings_of_each_provider_are_accepted() -> None:
    """Each address and each setting as the table has it, and a job's request goes to that address."""
    addresses = 0
    for row in TABLE.splitlines()[2:]:
        _, provider, urls, also, *_ = row.split("|")
        given = {name: value.replace("…", "x") for name, value in re.findall(r"`STOCKPOT_(\w+)=([^`]+)`", also)}
        for url in re.findall(r"`(https?://[^`]+)`", urls):
            address = url.replace("HOST", "127.0.0.1").replace("NAME", "name").replace("…", "x")
            settings = load(upstream_url=address, **{name.lower(): value for name, value in given.items()})
            endpoint = BaseUrl.parse(settings.upstream_url).of("/v1/chat/completions")
            assert endpoint.startswith(address.split("?")[0].removesuffix("/chat/completions")), provider
            addresses += 1
    assert addresses > 15
