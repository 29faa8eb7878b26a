"""What people and spreadsheets are shown: nothing in it commands a terminal, forges a line or runs as a formula."""

from __future__ import annotations

import ast
import csv
import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from rich.console import Console

from api_schemas import jsontext
from api_schemas.errors import InvalidRequest, JobError
from api_schemas.jobs import MAX_SECONDS, JobDetail, parse_job
from api_schemas.plain import plain_body
from tests.factories import chat
from worker.cli import output
from worker.cli.jobs.following import summary
from worker.cli.money.usage import _inert
from worker.cli.output import cell, say
from worker.cli.tables import Table
from worker.dashboard import rendering

EVIL = "m\x1b]0;owned\x07\x1b[2J\x9b31m\r\nforged  line\u2028x\tend\u202ethgir\u2066\u200f"
#: What commands the terminal, and what turns the direction of its writing.
COMMANDS = {"\x1b", "\x07", "\x9b", "\r", "\t", "\u2028", "\u202e", "\u2066", "\u200f"}


def test_no_cell_commands_the_terminal_or_begins_a_line() -> None:
    """Escape sequences, C1 controls, line ends of every kind, tabs."""
    table = Table()
    table.text("model")
    table.add_row(EVIL)
    text = io.StringIO()
    Console(file=text, width=120).print(table)
    assert not set(text.getvalue()) & COMMANDS
    assert len(cell(EVIL).splitlines()) == 1


def test_no_sentence_for_people_commands_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Errors repeat what a provider, a receiver or a file has said; only their colours are ours."""
    say(EVIL, lead=click.style("Error: ", fg="red"), dim=True)
    said = capsys.readouterr().err
    assert click.unstyle(said).startswith("Error: m")
    assert not set(click.unstyle(said)) & (COMMANDS - {"\t", "\u2028"})


def test_the_end_of_a_job_is_one_line() -> None:
    """Whatever its error says."""
    error = JobError(error_class="upstream", message=EVIL)
    end: Any = JobDetail.model_construct(  # type: ignore[call-arg]  # what the summary looks at
        id="job_x", status="failed", error=error, usage=None, cost_usd=None, finished_at=None, attempts=1
    )
    assert len(summary(end).splitlines()) == 1


def test_every_table_of_the_command_line_is_that_one() -> None:
    """One that is rich's own would show what it is given."""
    root = Path(__file__).parents[2] / "worker" / "cli"
    strangers = [
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if path.name != "tables.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.ImportFrom) and node.module == "rich.table")
        or (isinstance(node, ast.Import) and any(name.name == "rich.table" for name in node.names))
    ]
    assert strangers == []


def test_what_is_styled_is_handed_over_apart_from_what_others_wrote() -> None:
    """`say` shows escape sequences in its text as what they are: a style of ours goes into `lead`, or into its options."""
    root = Path(__file__).parents[2] / "worker" / "cli"
    styled = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "say" and node.args
        if "click.style" in ast.unparse(node.args[0])
    ]
    assert styled == []


@pytest.mark.parametrize("model", ["m\x1b[2J", "m\nforged", "m\x9b", "m\x00", "m\u202e", "m\u2067", "m\u2028", "m\t"])
@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/responses"])
def test_a_models_name_is_printable_or_refused(model: str, endpoint: str) -> None:
    """In submissions, and in the quick proof for lines of batches."""
    body: dict[str, Any] = chat("x") if "chat" in endpoint else {"input": "x"}
    body["model"] = model
    with pytest.raises(InvalidRequest, match="model"):
        parse_job({"endpoint": endpoint, "body": body})
    assert not plain_body(endpoint, body)


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_no_cell_of_a_csv_is_a_formula(first: str) -> None:
    """Texts get a quote in front; numbers stay numbers."""
    evil = f"{first}HYPERLINK(1)"
    assert _inert(evil) == f"'{evil}"
    assert [_inert(value) for value in ("-0.5", "+1", 7, None, "m=1")] == ["-0.5", "+1", 7, None, "m=1"]
    text = io.StringIO()
    csv.writer(text).writerow([_inert(evil)])
    assert next(csv.reader([text.getvalue()]))[0].startswith("'")


@pytest.mark.parametrize("metadata", [{"\ud800": "v"}, {"\ud800": 5}, {"k": "\udfff"}])
def test_halves_of_characters_in_metadata_are_refused_in_words_that_can_be_shown(metadata: dict[str, Any]) -> None:
    """In keys, too, whatever their value."""
    with pytest.raises(InvalidRequest, match="surrogate") as refused:
        parse_job({"endpoint": "/v1/chat/completions", "body": chat("x"), "metadata": metadata})
    str(refused.value).encode()
    jsontext.dumps([problem.message for problem in refused.value.problems])


def test_not_before_is_bounded_as_delay_is() -> None:
    """A year and a day ahead at most."""
    late = datetime.now(UTC) + timedelta(seconds=MAX_SECONDS + 60)
    with pytest.raises(InvalidRequest, match="not_before"):
        parse_job({"endpoint": "/v1/chat/completions", "body": chat("x"), "not_before": late.isoformat()})
    soon = datetime.now(UTC) + timedelta(seconds=MAX_SECONDS - 60)
    job = parse_job({"endpoint": "/v1/chat/completions", "body": chat("x"), "not_before": soon.isoformat()})
    assert job.not_before == soon


def test_the_dashboard_shows_what_is_unseen_as_what_it_is_also_before_a_reload() -> None:
    """What turns the direction in a terminal does so there; the script that shows live tokens has the same characters."""
    script = (Path(rendering.__file__).parent / "static" / "dash.js").read_text(encoding="utf-8")
    found = re.search(r"unseen = /(\[.*\])/gu;", script)
    assert found is not None
    assert found[1].encode("ascii").decode("unicode_escape") == rendering._UNSEEN.pattern
    assert [rendering.visible(chr(code)) for code in output._TURNS] == [f"⟨{code:04X}⟩" for code in output._TURNS]


@pytest.mark.parametrize(
    ("ahead", "words"), [(0.5, "just now"), (90.0, "just now"), (-0.5, "just now"), (-90.0, "90 s ago")]
)
def test_what_has_been_is_never_to_come(ahead: float, words: str) -> None:
    """The database's clock may be ahead of the gateway's; what is to come is marked as that."""
    moment = datetime.now(UTC) + timedelta(seconds=ahead)
    assert f">{words}<" in rendering.time(moment)
    assert (">in " in rendering.time(moment, ahead=True)) is (ahead > 0)
