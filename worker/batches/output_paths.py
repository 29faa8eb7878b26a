"""Where answers may be written: files are the user's, and nothing of theirs is destroyed.

An output is never the input and never its own error file. A file that holds something is replaced only on request, only
when it is an output file itself, and only by as many answers as it holds or more; what grows is continued behind its
offset. Every path is tried before anything is submitted or paid for.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from pathlib import Path

from api_schemas import jsontext
from api_schemas.errors import FieldProblem
from worker.base.errors import InvalidRequest

STDOUT = "-"
#: What lies there is no file of the user's: descriptors, terminals, pipes.
_DEVICES = ("/dev/", "/proc/")
#: How much of a file is read at a time to count its lines, in bytes.
_BLOCK = 1024 * 1024


def beside(output: str) -> str:
    """The error file of an output: `out.jsonl` → `out.errors.jsonl`; stdout's is stdout."""
    if output == STDOUT:
        return STDOUT
    path = Path(output)
    return str(path.with_name(f"{path.stem}.errors{path.suffix}"))


def is_special(path: str) -> bool:
    """Whether it is written to as it is: a device, a pipe, a descriptor of this process."""
    return str(Path(path).absolute()).startswith(_DEVICES) or (Path(path).exists() and not Path(path).is_file())


def check(
    output: str,
    errors: str | None = None,
    *,
    source: str | None = None,
    continues: bool = False,
    overwrite: bool = False,
    force: bool = False,
    grows: bool = False,
) -> None:
    """Refuse paths that cannot be written, or at which something would be lost.

    Args:
        source: the batch's input file, if it is known here.
        continues: the files are appended to behind an offset.
        overwrite: an output file that is there may be replaced.
        force: whatever is there may be replaced.
        grows: the file is written in place while the batch runs, so what it held is gone at once.

    Raises:
        InvalidRequest: names the option and what to do instead.
    """
    named = {"output": output, "errors": errors or beside(output)}
    if output != STDOUT and _same(named["output"], named["errors"]):
        _refuse("errors", f"{named['errors']} is the output file itself; name another file")
    for field, path in named.items():
        if path == STDOUT or is_special(path):
            if Path(path).is_dir():
                _refuse(field, f"{path} is a directory; name a file in it")
            continue
        if source is not None and _same(path, source):
            _refuse(field, f"{path} is the input file; name another file")
        _check_folder(field, path)
        if continues or force or not Path(path).exists() or not Path(path).stat().st_size:
            continue
        if grows:
            beside_it = f" --errors {shlex.quote(errors)}" if errors else ""
            _refuse(
                field,
                f"{path} exists and holds {count_lines(Path(path)):,} lines; name another file, or go on behind what is"
                f" there of this batch: stockpot batch results BATCH -o {shlex.quote(output)}{beside_it} --follow"
                f" --offset {sum(_whole_lines(one) for one in named.values())}",
            )
        if not overwrite:
            _refuse(
                field,
                f"{path} exists and holds {count_lines(Path(path)):,} lines; --overwrite replaces it,"
                " --offset N goes on behind the first N lines, or name another file",
            )
        if not _is_output(Path(path)):
            _refuse(field, f"{path} does not look like a file of answers; name another file, or --force replaces it")


def check_not_fewer(path: str, answers: int) -> None:
    """Refuse to replace an output file by one with fewer answers. Raises InvalidRequest."""
    held = count_lines(Path(path)) if Path(path).is_file() and not is_special(path) else 0
    if held > answers:
        _refuse(
            "output",
            f"{path} holds {held:,} answers and there are {answers:,} to write now (purged, or another batch?);"
            " it was left as it is. --force replaces it",
        )


def count_lines(path: Path) -> int:
    """How many lines a file has; a last one without an end counts."""
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last != b"\n")


def _whole_lines(path: str) -> int:
    """How many lines a file has that have an end: those that stay when it is continued."""
    if is_special(path) or not Path(path).is_file():
        return 0
    with Path(path).open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK), b""))


def leftovers(output: str, errors: str | None = None) -> list[str]:
    """Unfinished files of commands that were killed while they wrote these: `out.jsonl.<pid>.part`."""
    found: list[str] = []
    for path in (output, errors or beside(output)):
        if path == STDOUT or is_special(path):
            continue
        place = Path(os.path.realpath(path))
        named = re.compile(re.escape(place.name) + r"\.(\d+)\.part")
        with contextlib.suppress(OSError):
            found += [
                str(one)
                for one in sorted(place.parent.iterdir())
                if (match := named.fullmatch(one.name)) and not _is_alive(int(match[1]))
            ]
    return found


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _is_output(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline(_BLOCK)
    try:
        line = jsontext.loads(first)
    except ValueError:
        return False
    return isinstance(line, dict) and "custom_id" in line and "response" in line


def _check_folder(field: str, path: str) -> None:
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        _refuse(field, f"{path}: there is no folder {target.parent}; make it first")
    if not os.access(target.parent, os.W_OK) or (target.exists() and not os.access(target, os.W_OK)):
        _refuse(field, f"{path} cannot be written: permission denied")


def _same(one: str, other: str) -> bool:
    if STDOUT in {one, other}:
        return False
    return os.path.realpath(one) == os.path.realpath(other) or (
        Path(one).exists() and Path(other).exists() and Path(one).samefile(other)
    )


def _refuse(field: str, message: str) -> None:
    raise InvalidRequest([FieldProblem(field=field, message=message)])
