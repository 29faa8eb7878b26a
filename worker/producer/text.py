"""A job's text as it comes, so that what is printed piece by piece reads right whatever happens on the way.

An attempt that broke cannot be unprinted. When the next one begins, its text is compared with what was shown: as long as
it is the same nothing is repeated, and it goes on where the broken one ended. Where it differs, `again` is yielded and
the new text from its beginning. So the pieces, joined, end with the job's text, and mostly are the job's text.
"""

from __future__ import annotations

from collections.abc import Iterator

from api_schemas.events import TERMINAL_TYPES
from worker.base.errors import NotCompleted
from worker.live.cursor import Event

#: Between the text of an attempt that broke and another one that begins differently.
AGAIN = "\n\n"


class Pieces:
    """What to show of a job's events, one after the other."""

    def __init__(self, again: str = AGAIN) -> None:
        self._again = again
        self._shown = ""  # since `again` was last yielded
        self._at = 0  # how much of it this attempt has sent

    def of(self, event: Event) -> Iterator[str]:
        """The text to show for this event. Raises NotCompleted at an end that is not `job.completed`."""
        if event["type"] == "attempt.reset":
            self._at = 0
        elif event["type"] == "chunk":
            yield from self._add(event["text"])
        elif event["type"] in TERMINAL_TYPES:
            if self._at < len(self._shown):  # the answer is shorter than what was shown of a broken attempt
                yield from self._begin(self._shown[: self._at])
            if event["type"] != "job.completed":
                raise NotCompleted(event["job"], event["type"].removeprefix("job."), event.get("error"))

    def _add(self, text: str) -> Iterator[str]:
        known = self._shown[self._at : self._at + len(text)]
        if not text.startswith(known):
            yield from self._begin(self._shown[: self._at] + text)
            return
        self._at += len(text)
        if len(known) < len(text):
            self._shown += text[len(known) :]
            yield text[len(known) :]

    def _begin(self, text: str) -> Iterator[str]:
        self._shown, self._at = text, len(text)
        if text:
            yield self._again
            yield text
