"""What the command line reads from options and how it writes values for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import click
import pytest

from worker.cli import app
from worker.cli.batches.options import Span
from worker.cli.options import Moment, Names, Pairs
from worker.cli.output import money, shown, span


@pytest.mark.parametrize(
    ("given", "seconds"), [("90s", 90), ("90m", 5_400), ("2h", 7_200), ("7d", 604_800), ("1w", 604_800)]
)
def test_a_duration_means_that_long_ago(given: str, seconds: int) -> None:
    """Within the time that the test takes."""
    then = Moment().convert(given, None, None)
    assert timedelta(0) <= datetime.now(UTC) - then - timedelta(seconds=seconds) < timedelta(minutes=1)


def test_durations_to_come_are_spelled_as_those_that_are_past() -> None:
    """One grammar: `--within 2w` and `--since 2w`."""
    assert Span().convert("2w", None, None) == 14 * 86_400


def test_a_time_without_an_offset_is_utc_and_one_with_an_offset_keeps_it() -> None:
    """A date is its midnight."""
    assert Moment().convert("2026-08-01", None, None) == datetime(2026, 8, 1, tzinfo=UTC)
    assert Moment().convert("2026-08-01T06:00:00+02:00", None, None) == datetime(2026, 8, 1, 4, tzinfo=UTC)


@pytest.mark.parametrize("given", ["yesterday", "", "5 parsecs", "2026-13-01", "99999999999999d", "-5m"])
def test_what_is_no_time_is_refused_with_what_would_be(given: str) -> None:
    """The message shows forms that are accepted."""
    with pytest.raises(click.BadParameter, match="24h"):
        Moment().convert(given, None, None)


def test_pairs_split_at_the_first_equals_sign() -> None:
    """Values may hold more of them, keys may not be empty."""
    assert Pairs().convert("a=b=c", None, None) == ("a", "b=c")
    for wrong in ("a", "=b", " =b"):
        with pytest.raises(click.BadParameter, match="KEY=VALUE"):
            Pairs().convert(wrong, None, None)
    assert Names().convert("day, model,,", None, None) == ("day", "model")


def test_nothing_that_a_model_says_commands_the_terminal() -> None:
    """Escapes, carriage returns and halves of characters go; text, newlines and tabs stay."""
    assert shown("a\x1b[2Jb\x9bc\rd\ne\tf\x00") == "a\ufffd[2Jb\ufffdcd\ne\tf\ufffd"
    assert shown("x\ud83dy") == "x?y"
    assert shown("日本 🍲") == "日本 🍲"


def test_money_and_durations_are_written_for_people() -> None:
    """Small amounts keep their digits, unknown is no zero."""
    assert [money(usd) for usd in (None, Decimal("0.000034"), Decimal(0), Decimal("1234.5"))] == [
        "unknown",
        "$0.000034",
        "$0.00",
        "$1,234.50",
    ]
    assert [span(seconds) for seconds in (None, 0.85, 12, 180, 18_000, 200_000)] == [
        "–",
        "850 ms",
        "12 s",
        "3 min",
        "5 h",
        "2 d",
    ]


def test_every_listed_command_exists_and_teaches() -> None:
    """Its help has a text; commands that take arguments or options have examples."""
    context = click.Context(app.main)
    for name in app.main.list_commands(context):
        command = app.main.get_command(context, name)
        assert command is not None and command.help, name
        assert command.epilog or name in {"demo", "db"}, name
