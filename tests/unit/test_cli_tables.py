"""Tables at 80 columns: ids whole, what matters least left out first, texts cut or folded; nothing cut in a pipe."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from api_schemas.job_views import Job
from worker.cli.jobs import listing
from worker.cli.operations import routes, standing, workers
from worker.cli.output import margin
from worker.cli.tables import Table, facts
from worker.db.workers.registry import WorkerRow
from worker.limits.limiter import RouteState
from worker.limits.route import Route
from worker.local.terminal import moves

ID = "job_01a2193d3158721da2d27b2dfa26e242"
MODEL = "openai/gpt-5-1-chat-latest"


def now() -> datetime:
    """This moment: the module was read long before the last of its tests runs."""
    return datetime.now(UTC)


def drawn(table: Table, width: int = 80) -> list[str]:
    """The lines of a table in a terminal of this width."""
    text = io.StringIO()
    Console(file=text, width=width, markup=False, highlight=False, emoji=False).print(table)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def job(**fields: object) -> Job:
    """A job that was made just now."""
    own = {"id": ID, "endpoint": "/v1/chat/completions", "model": MODEL, "status": "queued", "created_at": now()}
    return Job.model_validate(own | fields)


def test_a_list_shows_id_status_age_and_tries_at_80_columns() -> None:
    """One line a job; the model is cut, lane and answer have no room."""
    jobs = [
        job(waiting_on="paused"),
        job(status="failed", error_class="timeout", error_message="no answer", attempts=5),
    ]
    [heading, first, second] = drawn(listing.table_of(iter(jobs)))
    assert heading.split() == ["job", "status", "model", "age", "tries"]
    assert first.split()[:3] == [ID, "queued", "(paused)"]
    assert first.split()[3].endswith("…")
    assert second.split()[-1] == "5"
    assert max(map(cell_len, (heading, first, second))) <= 80


def test_a_column_of_nothing_takes_no_room() -> None:
    """Of jobs that say nothing yet the model is readable instead."""
    [heading, line] = drawn(listing.table_of(iter([job()])))
    assert heading.split() == ["job", "status", "model", "age", "tries"]
    assert line.split()[2].startswith("openai/gpt-5-1")
    assert drawn(listing.table_of(iter([job()])), 200)[0].split()[-1] == "what", "there is room for all"


@pytest.mark.parametrize(("term", "able"), [("xterm", True), ("dumb", False)])
def test_a_dumb_terminal_is_shown_lines_and_nothing_that_moves(term: str, able: bool) -> None:
    """As a pipe is: what is drawn over would not be seen at all."""

    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert moves(Console(file=Tty(), _environ={"TERM": term})) is able
    assert not moves(Console(file=io.StringIO(), _environ={"TERM": term, "FORCE_COLOR": "1"}))


def test_a_list_has_room_for_more_in_a_wider_terminal() -> None:
    """What failed, and the whole model."""
    lines = drawn(listing.table_of(iter([job(error_class="timeout", error_message="no answer in 600 s")])), 160)
    assert lines[0].split() == ["job", "status", "model", "lane", "age", "tries", "what"]
    assert f"{MODEL}  interactive" in lines[1]
    assert lines[1].endswith("timeout: no answer in 600 s")


def test_a_route_and_its_pause_are_whole_at_80_columns() -> None:
    """Folded, not cut: the name is what `pause` takes."""
    route = Route("https://api.aimlapi.com/v1", "2f05d4b689d2", MODEL)
    state = RouteState(route, 16, 3, "key", "account", "Invalid API key", now().timestamp(), now().timestamp() + 240)
    lines = drawn(routes.table_of([state, replace(state, paused=None)]))
    assert max(map(cell_len, lines)) <= 80
    assert not any("…" in line for line in lines)
    whole = "".join(line[: lines[0].index("in flight")].rstrip() for line in lines[1:])
    assert whole.startswith(route.name)
    assert "looks again" in " ".join(" ".join(lines).split())
    narrow = drawn(routes.table_of([state]), 60)
    assert "why" in narrow[0] and max(map(cell_len, narrow)) <= 60, "texts give way before a column goes"


def test_a_key_that_is_refused_is_one_concern_for_all_its_models() -> None:
    """A screen has room for what else there is; a model that fails is one of its own."""
    states = [
        RouteState(
            Route("https://a/v1", "k", f"m{n}"), 16, 0, why, None, "", now().timestamp(), now().timestamp() + 240
        )
        for n, why in enumerate(["key", "key", "failures", "key", None])
    ]
    first, second = [one.text for one in standing._of_routes(states)]
    assert first.startswith("the provider refuses the key (3 routes); looks again in ")
    assert second.startswith("m2 is paused: most of its last calls failed; looks again in ")


def test_workers_are_whole_at_80_columns() -> None:
    """Who and in what state; the loop's lag has no room."""
    row = WorkerRow(
        "worker-host-7f9c4d:42424:9f3c2a1b", "h", 1, "0.1.0", now(), now(), 200, 117, 0.001, 1 << 30, None, alive=True
    )
    lines = drawn(workers.table_of([row]))
    assert max(map(cell_len, lines)) <= 80
    assert lines[1].startswith(row.owner)
    assert "117/200" in lines[1]


def test_nothing_is_cut_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe has no width."""
    from worker.cli.output import screen

    table = Table("id")
    table.line("what")
    table.add_row(ID, "long " * 200)
    screen().print(table)
    assert capsys.readouterr().out.count("long") == 200


@given(
    widths=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    terminal=st.integers(30, 200),
    kinds=st.lists(st.sampled_from(["whole", "text", "line"]), min_size=5, max_size=5),
    drop=st.integers(0, 1),
)
def test_an_id_is_whole_whatever_stands_beside_it(
    widths: list[int], terminal: int, kinds: list[str], drop: int
) -> None:
    """At any width of the terminal that holds the id, with any neighbours; everything else may go."""
    table = Table("id")
    for kind in kinds[: len(widths)]:
        getattr(table, kind)("h", drop=drop)
    table.add_row("I" * 28, *("x" * width for width in widths))
    lines = drawn(table, terminal)
    assert lines[1].startswith("I" * 28)
    assert max(map(cell_len, lines)) <= terminal


def test_facts_are_folded() -> None:
    """A long value takes lines; its name stays beside it."""
    table = facts()
    table.add_row("why", "word " * 30)
    lines = drawn(table)
    assert lines[0].startswith("why  word")
    assert len(lines) > 1
    assert max(map(cell_len, lines)) <= 80


def test_a_progress_console_outlives_its_terminal_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stream is flushed once more when it is collected: from Python 3.13 on an error there is printed."""
    stderr = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stderr", stderr)
    console = margin()
    console.print("37 of 100")
    stderr.close()
    console.file.flush()
    console.file.close()
