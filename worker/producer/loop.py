"""An event loop in a thread, for blocking callers of what is asynchronous.

The thread is a daemon and ends with `close`, which also runs when the process ends: no `close` is needed for
a script to end. A loop that was inherited over a `fork` has no thread; `forget` makes it refuse instead of hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future, InvalidStateError, wait
from typing import Any, Generic, Protocol, TypeVar

from anyio import CancelScope

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

#: How long `close` waits for the loop's own clean-up, in seconds. The thread is a daemon: who waits longer gains nothing.
CLOSE_SECONDS = 2.0


class Closing(Protocol[T_co]):
    """An asynchronous iterator that can be closed: a generator, or `Events`."""

    def __aiter__(self) -> AsyncIterator[T_co]:
        """It is its own iterator."""

    async def __anext__(self) -> T_co:
        """The next one."""

    async def aclose(self) -> None:
        """End it."""


class LoopClosed(Exception):
    """The loop runs no more."""


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._open: set[_Iteration[Any]] = set()
        self._calls: set[Future[Any]] = set()
        self._alive = True
        self._running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._run, name="stockpot-live", daemon=True)
        self._thread.start()
        self._loop, self._stop = self._running.result()

    def _run(self) -> None:
        async def until_stopped() -> None:
            stop = asyncio.Event()
            self._running.set_result((asyncio.get_running_loop(), stop))
            await stop.wait()

        asyncio.run(until_stopped())

    def call(self, verb: Callable[..., Awaitable[T]], *args: Any, timeout: float | None = None) -> T:
        """Run a coroutine function to its end; an interrupt (Ctrl-C, a signal) ends it first and is then raised.

        Raises:
            LoopClosed: the loop was closed, before or meanwhile.
            TimeoutError: it is not over after `timeout` seconds; it is cancelled.
        """
        if not self._alive:
            raise LoopClosed
        answer: Future[T] = Future()
        tasks: list[asyncio.Task[None]] = []

        async def run() -> None:
            try:
                answer.set_result(await verb(*args))
            except asyncio.CancelledError:
                answer.set_exception(LoopClosed())
            except BaseException as error:  # noqa: BLE001 -- it is the caller's
                answer.set_exception(error)

        self._calls.add(answer)
        try:
            self._loop.call_soon_threadsafe(lambda: tasks.append(self._loop.create_task(run())))
            return answer.result(timeout)
        except BaseException as error:
            if not answer.done() and self._alive:
                self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
                if not isinstance(error, TimeoutError):
                    wait([answer])
            raise
        finally:
            self._calls.discard(answer)

    def end(self, verb: Callable[[], Awaitable[object]], seconds: float) -> None:
        """Run a last coroutine function, for so long at most; a loop that is closed has nothing left to end."""
        with contextlib.suppress(LoopClosed, TimeoutError):
            self.call(verb, timeout=seconds)

    def iterate(self, events: Closing[T]) -> Iterator[T]:
        """Iterate over an asynchronous generator; leaving the loop closes it."""
        iteration = _Iteration(events)
        self._open.add(iteration)
        try:
            while True:
                try:
                    yield self.call(iteration.step)
                except (StopAsyncIteration, LoopClosed):
                    return
        finally:
            self._end(iteration)

    def _end(self, iteration: _Iteration[Any], timeout: float | None = None) -> None:
        if iteration in self._open and self._alive:
            self._open.discard(iteration)
            self.call(iteration.end, timeout=timeout)

    def close(self) -> None:
        """End the loop. What is still iterated over, by another thread or by a frame that a traceback keeps, ends first."""
        try:
            for iteration in list(self._open):
                self._end(iteration, CLOSE_SECONDS)
        except TimeoutError:
            pass  # it is cancelled with the loop
        finally:
            if self._alive:
                self.abandon()
                self._thread.join(CLOSE_SECONDS)
                self._give_up_calls()

    def abandon(self) -> None:
        """End the loop without waiting for anything, for callers that may not wait (a finalizer)."""
        if self._alive:
            self._alive = False
            self._loop.call_soon_threadsafe(self._stop.set)

    def forget(self) -> None:
        """Never touch this loop again: after a fork its selector is the parent's."""
        self._alive = False
        self._open.clear()

    def _give_up_calls(self) -> None:
        for answer in list(self._calls):
            with contextlib.suppress(InvalidStateError):
                answer.set_exception(LoopClosed())


class _Iteration(Generic[T]):
    """An asynchronous generator that threads step through and end.

    Python allows one of the two at a time, and a step that was cancelled takes a while to give up. An end that comes in
    the middle of a step cuts it off and waits for it.
    """

    def __init__(self, events: Closing[T]) -> None:
        self._events = events
        self._turn = asyncio.Lock()
        self._under_way: CancelScope | None = None

    async def step(self) -> T:
        """The next event. Raises StopAsyncIteration behind the last one, and when the iteration is ended meanwhile."""
        async with self._turn:
            with CancelScope() as self._under_way:
                return await anext(self._events)
        raise StopAsyncIteration

    async def end(self) -> None:
        """Close the generator."""
        if self._under_way is not None:
            self._under_way.cancel()
        async with self._turn:
            await self._events.aclose()
