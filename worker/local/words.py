"""How the demo writes things: pure."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from decimal import Decimal
from pathlib import Path

from rich.cells import cell_len

#: A word of a command, whose quotes may hold spaces.
_WORDS = re.compile(r"""(?:"[^"]*"|'[^']*'|\S)+""")
#: What a shell reads as: the command goes on in the next line.
_BREAK = " \\"


def program() -> str:
    """How a person types this program here: by its name where PATH finds it, else by the path that it was started by."""
    started = Path(sys.argv[0])
    found = shutil.which("stockpot")
    if started.name != "stockpot" or (found is not None and Path(found).resolve() == started.resolve()):
        return "stockpot"
    path, here = started.absolute(), Path.cwd()
    if not path.is_relative_to(here):
        return shlex.quote(str(path))
    below = str(path.relative_to(here))
    return shlex.quote(below if "/" in below else f"./{below}")


def printable(text: str) -> str:
    """Text that only shows: a model's control characters would move the cursor or worse. Newlines stay."""
    return "".join(one if one == "\n" or one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def one_line(text: str, length: int = 60) -> str:
    """The beginning of a text, on one line."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= length else line[: length - 1] + "…"


def broken_command(line: str, width: int) -> str:
    """A command that fits a width, in cells: broken between its words, as a shell reads it; one word may be wider."""
    lines = [""]
    for word in _WORDS.findall(line):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1].strip() and cell_len(longer) + len(_BREAK) > width:
            lines.append(f"    {word}")
        else:
            lines[-1] = longer
    return f"{_BREAK}\n".join(lines)


def clock(seconds: float) -> str:
    """A duration: milliseconds below a second."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def usd(amount: Decimal | None) -> str:
    """US dollars to six places, a dash for unknown."""
    return "–" if amount is None else f"${amount:,.6f}"
