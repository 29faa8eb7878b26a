"""What an error costs: its words on stderr, and the exit code that scripts see. Expected errors have no traceback."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

import click

from worker.base.errors import InvalidRequest, NotWritten, StockpotError, Unreachable, WaitTimeout
from worker.cli.output import say

#: The job or batch failed, or is not finished in the time that was given.
FAILED = 1
#: The caller must change something: arguments, the request, a setting.
USAGE = 2
#: A dependency does not answer, or is not ready for this version.
UNREACHABLE = 3
#: Ctrl-C, as shells spell it: 128 + SIGINT.
INTERRUPTED = 130


@contextlib.contextmanager
def errors_in_words(ctx: click.Context) -> Iterator[None]:
    """Print errors that are expected, in words, and exit with their code."""
    try:
        yield
    except KeyboardInterrupt as error:
        say("Interrupted.")
        for note in getattr(error, "__notes__", []):
            say(note)
        ctx.exit(INTERRUPTED)
    except InvalidRequest as error:
        problems = [
            f"{problem.field}: {problem.message}" if problem.field else problem.message for problem in error.problems
        ]
        if len(problems) == 1 and not error.problems[0].field:
            _tell(problems[0])
        else:
            _tell("The request cannot be accepted" + (":" if len(problems) > 1 else "."), *problems)
        ctx.exit(USAGE)
    except NotWritten as error:
        silence_stdout()
        _tell(str(error))
        ctx.exit(FAILED)
    except Unreachable as error:
        first, *mend = str(error).splitlines()
        _tell(first, *mend, *getattr(error, "__notes__", []))
        ctx.exit(UNREACHABLE)
    except WaitTimeout as error:
        _tell(str(error))
        ctx.exit(FAILED)
    except StockpotError as error:
        first, *more = str(error).splitlines() or [type(error).__name__]
        _tell(first, *more, *getattr(error, "__notes__", []))
        ctx.exit(USAGE)
    except BrokenPipeError:
        raise  # click's: the reader of our output has closed it
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise  # `no_room_in_words` has it
        if error.filename is None:
            raise
        _tell(f"{error.filename}: {error.strerror}")
        ctx.exit(USAGE)


@contextlib.contextmanager
def no_room_in_words() -> Iterator[None]:
    """Print that a disk is full, and exit; around all that a program prints, its help too."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        silence_stdout()
        _tell(f"{error.filename or 'stdout'}: {error.strerror}")
        sys.exit(FAILED)


#: The kernel's errors for a full disk.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def silence_stdout() -> None:
    """What is still buffered for a stdout that takes no more goes nowhere, so that the interpreter ends quietly."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _tell(first: str, *more: str) -> None:
    say(first, lead=click.style("Error: ", fg="red", bold=True))
    for line in more:
        say(f"  {line}")
