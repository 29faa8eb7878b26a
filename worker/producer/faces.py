"""The two faces of a verb: written once, offered to blocking and to awaiting callers.

    awaited   what is SQL blocks; the awaiting face runs it in a thread
    blocked   what is asynchronous awaits; the blocking face runs it on the loop of its connections

Both keep the verb's signature and its docstring, so an editor and mypy see the same on either face.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import warnings
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

from anyio import to_thread

P = ParamSpec("P")
R = TypeVar("R")

_BLOCKS = (
    "Stockpot blocks the event loop that runs in this thread, and everything on it; use AsyncStockpot, which has the"
    " same verbs, or call this in a thread"
)

#: The modules whose frames stand between a caller and the verb: the checks of its arguments among them.
_OURS = ("worker.", "api_schemas.")


def awaited(verb: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]:
    """A blocking verb as a coroutine function of an awaiting face, whose `_blocking` does the work in a thread."""

    @functools.wraps(verb)
    async def call(self: Any, *args: P.args, **options: P.kwargs) -> R:
        return await to_thread.run_sync(partial(verb, self._blocking, *args, **options))

    return call  # type: ignore[return-value]  # mypy cannot see that `self` is positional


def blocked(verb: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[Any, P], R]:
    """An awaiting verb as a function of a blocking face, whose `_awaiting` does the work on the loop of `_scope`."""

    @functools.wraps(verb)
    def call(self: Any, *args: P.args, **options: P.kwargs) -> R:
        warn_of_a_running_loop()
        done: R = self._scope.connections.loop().call(partial(verb, self._awaiting, *args, **options))
        return done

    return call  # type: ignore[return-value]  # as above


def warn_of_a_running_loop() -> None:
    """Warn that a blocking verb was called where an event loop runs. A notebook is such a place, so it is no error."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    depth, frame = 1, sys._getframe()  # noqa: SLF001 -- the caller's line, not ours
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_OURS):
        depth, frame = depth + 1, frame.f_back
    warnings.warn(_BLOCKS, RuntimeWarning, stacklevel=depth)
