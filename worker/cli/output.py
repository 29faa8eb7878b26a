"""What goes where: data to stdout, words for people to stderr, and nothing in either that commands the terminal."""

from __future__ import annotations

import contextlib
import io
import sys
from decimal import Decimal
from typing import Any, TextIO, cast

import click
from rich.console import Console

from api_schemas import jsontext
from api_schemas.batch import one_line
from worker.base.figures import age, money, span

__all__ = ["age", "at_least", "cell", "cost", "margin", "money", "put", "put_json", "say", "screen", "shown", "span"]

#: Columns of a table that goes to a file or a pipe, where nothing is cut.
_WIDE = 100_000
#: Control characters of model output would move the cursor, retitle the window or worse; newline and tab may stay.
_CONTROL = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
_CONTROL[ord("\r")] = ""
#: Marks that turn the direction of writing: a name with one could show as another, and what follows it in the line, too.
_TURNS = dict.fromkeys((1564, 8206, 8207, *range(8234, 8239), *range(8294, 8298)), "�")


def put_json(value: Any) -> None:
    """Write one JSON document on a line of its own to stdout, at once."""
    click.echo(one_line(jsontext.dumps(value)))


def put(text: str) -> None:
    """Write a line of data to stdout."""
    click.echo(shown(text))


def say(text: str, *, lead: str = "", **style: Any) -> None:
    """Write a line for people to stderr; a closed terminal or a full disk behind it ends no work.

    The text may hold what others have written. `lead` is ours, and may be styled; `style` is that of the text (`click.style`).
    """
    clean = shown(text).translate(_TURNS)
    with contextlib.suppress(OSError):
        click.echo(lead + (click.style(clean, **style) if style else clean), err=True, color=coloured())


def coloured() -> bool | None:
    """False where nothing is to be coloured (`NO_COLOR`, a dumb terminal); None: where there is a terminal.

    Click knows neither of the two; rich does.
    """
    here = (Console(file=sys.stdout), Console(file=sys.stderr))
    return False if any(one.no_color or one.is_dumb_terminal for one in here) else None


def shown(text: str) -> str:
    """Text that a terminal only shows: control characters and halves of characters are replaced."""
    return text.encode("utf-8", "replace").decode().translate(_CONTROL)


def screen() -> Console:
    """A console on stdout, for tables: as wide as the terminal, or wide enough for everything."""
    width = None if sys.stdout.isatty() else _WIDE
    return Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False)


def margin() -> Console:
    """A console on stderr, for what moves while people wait: as wide as the terminal is in that moment.

    A terminal that was closed meanwhile (`disown`) ends no work.
    """
    width = None if sys.stderr.isatty() else _WIDE
    return Console(file=cast("TextIO", _Margin(sys.stderr)), width=width, markup=False, highlight=False, emoji=False)


class _Margin(io.TextIOBase):
    """A text stream that takes what its own stream refuses."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        if self._stream.closed:  # before this one, which flushes once more when it is collected
            return
        with contextlib.suppress(OSError):
            self._stream.flush()


def lenient() -> None:
    """Let stdout and stderr show a `?` for what their encoding lacks: a terminal in Latin-1 ends no command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def cell(text: str) -> str:
    """As `shown`, on one line: what stands in a table may begin no new one."""
    return " ".join(shown(text).translate(_TURNS).splitlines()).replace("\t", " ")


def at_least(usd: Decimal | float | None, unpriced: int) -> str:
    """A cost in a table: never a zero for calls of unknown cost."""
    return money(usd) if not unpriced else f"≥ {money(usd)}" if usd else money(None)


def cost(usd: Decimal | float | None, unpriced: int) -> str:
    """What calls have cost, and for how many that is unknown."""
    known = not unpriced or bool(usd)
    return money(usd if known else None) + (f" and {unpriced:,} calls of unknown cost" if unpriced and known else "")
