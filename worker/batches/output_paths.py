"""Where answers may be written: files are the user's, and nothing of theirs is destroyed.

An output is never the input and never its own error file. A file that holds something is replaced only on request, only
when it is an output file itself, and only by as many answers as it holds or more; what grows is continued behind its
offset, by one command at a time. A file of requests is never written over. What is no file (a device, a pipe) is written
to as it is, and its errors with it. Every path is tried before anything is submitted or paid for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from api_schemas import jsontext
from api_schemas.errors import FieldProblem
from worker.base.errors import InvalidRequest
from worker.batches import formats

STDOUT = "-"
#: What lies there is no file of the user's: descriptors, terminals, pipes.
_DEVICES = ("/dev/", "/proc/")
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self|proc/(?P<pid>\d+))/fd/(?P<number>\d+)")
_NAMED = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
#: Endings of compressed files, and what makes them.
_COMPRESSED = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}
#: How much of a file is read at a time to count its lines, in bytes.
_BLOCK = 1024 * 1024
#: What a file is shows in so many of its first lines, each read up to so many bytes: a request may hold pictures.
_LOOKED_AT, _LONGEST = 5, 64 * 1024 * 1024


def beside(output: str) -> str:
    """The error file of an output: `out.jsonl` → `out.errors.jsonl`; what is no file has its errors in itself."""
    if output == STDOUT or is_special(output):
        return output
    path = Path(output)
    return str(path.with_name(f"{path.stem}.errors{path.suffix}"))


def reports(output: str) -> tuple[Path, Path] | None:
    """Where the report of an output is, as JSON and as a page; None: there is no place beside what is no file."""
    if output == STDOUT or is_special(output):
        return None
    path = Path(output)
    return path.with_name(f"{path.stem}.report.json"), path.with_name(f"{path.stem}.report.html")


def is_special(path: str) -> bool:
    """Whether it is written to as it is: a device, a pipe, a descriptor of this process."""
    return str(Path(path).absolute()).startswith(_DEVICES) or (Path(path).exists() and not Path(path).is_file())


def descriptor(path: str) -> int | None:
    """The descriptor of this process that a path names, as `/dev/stdout` and a shell's `>(…)` do; None: it names none."""
    given = str(Path(path).absolute())
    if given in _NAMED:
        return _NAMED[given]
    found = _DESCRIPTOR.fullmatch(given)
    if found is None or found["pid"] not in {None, str(os.getpid())}:
        return None
    return int(found["number"])


def is_stdout(path: str) -> bool:
    """Whether a path is stdout, by any of its names."""
    return path == STDOUT or descriptor(path) == 1


def notes(output: str, errors: str | None = None) -> list[str]:
    """What is to be known of these paths before anything is written: pipes that wait, files that were left."""
    pipes = [
        path for path in dict.fromkeys((output, errors or output)) if Path(path).is_fifo() and descriptor(path) is None
    ]
    return [
        *(f"{path} is a pipe: its lines wait until something reads it." for path in pipes),
        *(
            f"{path} was left by a command that was killed; it is not whole, and can be removed."
            for path in leftovers(output, errors)
        ),
    ]


def is_one(output: str, errors: str) -> bool:
    """Whether the errors go into what the output goes into: stdout, or another thing that is no file."""
    if is_stdout(output) or is_stdout(errors):
        return is_stdout(output) and is_stdout(errors)
    return is_special(output) and _same(output, errors)


def check(
    output: str,
    errors: str | None = None,
    *,
    source: str | None = None,
    continues: bool = False,
    overwrite: bool = False,
    force: bool = False,
    grows: bool = False,
    reported: bool = False,
) -> None:
    """Refuse paths that cannot be written, or at which something would be lost.

    Args:
        source: the batch's input file, if it is known here.
        continues: the files are appended to behind an offset.
        overwrite: an output file that is there may be replaced.
        force: whatever is there may be replaced.
        grows: the file is written in place while the batch runs, so what it held is gone at once.
        reported: a report is written beside the output when the batch is over.

    Raises:
        InvalidRequest: names the option and what to do instead.
    """
    named = {"output": output, "errors": errors or beside(output)}
    if not is_one(**named) and _same(named["output"], named["errors"]):
        _refuse("errors", f"{named['errors']} is the output file itself; name another file")
    if reported:
        _check_reports(output, errors)
    for field, path in named.items():
        if is_stdout(path) or is_special(path):
            _check_special(field, path)
            continue
        if source is not None and _same(path, source):
            _refuse(field, f"{path} is the input file; name another file")
        _check_name(field, path)
        _check_folder(field, path)
        if not Path(path).exists() or not Path(path).stat().st_size:
            continue
        _check_held(field, path)
        if _is_input(Path(path)):
            _refuse(field, f"{path} is a file of requests, which is never written over; name another file")
        if force:
            continue
        if continues:
            if not _is_output(Path(path)):
                _refuse(
                    field, f"{path} does not look like a file of answers, which could be continued; name another file"
                )
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
        if is_stdout(path) or is_special(path):
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


def _first_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The first lines of a file that are not blank, as objects; {} for one that is none. Decompressed."""
    with path.open("rb") as raw, contextlib.suppress(OSError, *formats.DAMAGED):
        kind = formats.compression(raw.read(formats.MAGIC_BYTES))
        raw.seek(0)
        source = formats.decompressed(raw, kind)
        for text in islice(iter(lambda: source.readline(_LONGEST), b""), _LOOKED_AT):
            line: object = None
            with contextlib.suppress(ValueError):
                line = jsontext.loads(text.removeprefix(formats.UTF8_MARK))
            if not text.isspace():
                yield line if isinstance(line, dict) else {}


def _is_output(path: Path) -> bool:
    return {"custom_id", "response"} <= next(_first_lines(path), {}).keys()


def _is_input(path: Path) -> bool:
    """Whether one of its first lines is a request: a file may begin with a bad one."""
    return any({"custom_id", "url", "body"} <= line.keys() for line in _first_lines(path))


def _check_special(field: str, path: str) -> None:
    if is_stdout(path):
        return
    kind = Path(path).stat().st_mode if Path(path).exists() else 0
    if stat.S_ISDIR(kind):
        _refuse(field, f"{path or 'an empty path'} is a directory; name a file in it")
    if stat.S_ISBLK(kind):
        _refuse(field, f"{path} is a disk; name a file")
    if not kind:
        _refuse(field, f"there is no {path}; name a file")


def _check_name(field: str, path: str) -> None:
    """Refuse what the path alone shows: a folder, or a compressed file."""
    if path.endswith("/"):
        _refuse(field, f"{path} is the name of a folder; name a file in it")
    tool = _COMPRESSED.get(Path(path).suffix.lower())
    if tool is not None:
        plain = shlex.quote(str(Path(path).with_suffix("")))
        _refuse(field, f"{path}: what is written is not compressed; write {plain}, and then: {tool} {plain}")


def _check_reports(output: str, errors: str | None) -> None:
    for path in reports(output) or ():
        if errors is not None and _same(str(path), errors):
            _refuse("errors", f"{path} is where the report goes; name another file")
        if path.exists() and (not path.is_file() or path.stat().st_size):
            _refuse("output", f"{path} exists, where the report goes; move it, or name another output")


def _check_held(field: str, path: str) -> None:
    """Refuse a file that another command lets grow."""
    with Path(path).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            _refuse(field, f"{path} is being written by another command; name another file")
        except OSError:  # a file system without locks
            return


def _check_folder(field: str, path: str) -> None:
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        _refuse(field, f"{path}: there is no folder {target.parent}; make it first")
    if not os.access(target.parent, os.W_OK) or (target.exists() and not os.access(target, os.W_OK)):
        read_only = os.statvfs(target.parent).f_flag & os.ST_RDONLY
        _refuse(
            field, f"{path} cannot be written: {'its file system is read-only' if read_only else 'permission denied'}"
        )


def _same(one: str, other: str) -> bool:
    if STDOUT in {one, other}:
        return False
    return os.path.realpath(one) == os.path.realpath(other) or (
        Path(one).exists() and Path(other).exists() and Path(one).samefile(other)
    )


def _refuse(field: str, message: str) -> None:
    raise InvalidRequest([FieldProblem(field=field, message=message)])
