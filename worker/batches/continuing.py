"""A file of answers that is continued: how far it is, by the ids of its lines. The offset that is given must be that.

With a smaller one lines would be there twice, with a larger one some would be missing, and neither shows later.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from api_schemas import jsontext
from api_schemas.errors import FieldProblem
from worker.base.errors import InvalidRequest
from worker.batches.line_text import LINE_ID
from worker.batches.output_paths import beside, is_special, is_stdout
from worker.batches.results import Order
from worker.db.batches import line_ids
from worker.db.connect import Database

#: How a line begins that we wrote and others left as it was.
_BEGIN = re.compile(rb'\{"id": ?"' + LINE_ID.encode() + rb'([0-9a-f]{32}(?:_\d+)?)"')


def check(database: Database, batch: str, output: str, errors: str | None, *, offset: int, order: Order) -> None:
    """Refuse an offset that is not how far the files are; files that hold nothing have any. Keep them locked meanwhile.

    Raises:
        InvalidRequest: with the offset that is right, if there is one.
        Unreachable: the database does not answer.
    """
    held = set(_ids(output)) | set(_ids(errors or beside(output)))
    if not held:
        return
    ids = line_ids.by_end if order is Order.ENDED else line_ids.by_line
    found = _extent(ids(database, batch), held)
    if found is None:
        _refuse("output", f"{output} holds no line of {batch}; name another file")
    elif found.has_gaps:
        _refuse(
            "output",
            f"{output} holds {found.held:,} of the batch's lines, and not in the order in which they"
            f" {'ended' if order is Order.ENDED else 'stand in the file'}: it cannot be continued;"
            " --overwrite without --offset writes all lines anew",
        )
    elif found.last != offset:
        harm = "lines would be there twice" if found.last > offset else "lines between would be missing"
        _refuse(
            "offset",
            f"{output} holds the batch's lines up to number {found.last:,}: behind {offset:,} {harm};"
            f" go on with --offset {found.last}",
        )


@dataclass(slots=True)
class _Extent:
    """Which of a batch's lines a file holds, as numbers in an order that begins with 1."""

    last: int = 0
    held: int = 0
    has_gaps: bool = False


def _extent(ids: Iterable[tuple[int, str]], held: Collection[str]) -> _Extent | None:
    """From the numbers and ids of a batch's lines; None: none is held."""
    found, missing = _Extent(), False
    for number, one in ids:
        if one not in held:
            missing = found.held > 0
            continue
        found.has_gaps |= missing
        found.last = number
        found.held += 1
    return found if found.held else None


def _ids(path: str) -> Iterator[str]:
    """The ids of a file's whole lines."""
    if is_stdout(path) or is_special(path) or not Path(path).is_file():
        return
    with Path(path).open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return  # it is taken away
            if match := _BEGIN.match(line):
                yield match[1].decode()
            else:
                yield _id(line)


def _id(line: bytes) -> str:
    """The id of a line that another program wrote again; any other text for a line without one."""
    with contextlib.suppress(ValueError):
        given = jsontext.loads(line)
        if isinstance(given, dict):
            return str(given.get("id")).removeprefix(LINE_ID)
    return ""


def _refuse(field: str, message: str) -> None:
    raise InvalidRequest([FieldProblem(field=field, message=message)])
