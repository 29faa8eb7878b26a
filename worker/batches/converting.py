"""The command line that converts a file: as it is pasted, whatever the file is compressed with, from a pipe, too."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

_SUBMIT = "stockpot batch submit -"
#: What undoes the compressions that are read as they are.
_UNPACK = {"gzip": "gzip -dc", "bzip2": "bzip2 -dc", "xz": "xz -dc"}
#: Where a tool that reads no pipe finds what was in one.
_UNPACKED = "unpacked"


@dataclass(frozen=True, slots=True)
class Given:
    """A file as it was given: its name in sentences, its path, what it is compressed with.

    Args:
        path: None: it came through a pipe, so what wrote it stands as `…`.
        kind: of what is read as it is: gzip, bzip2, xz; None: it is not compressed.
    """

    name: str
    path: str | None = None
    kind: str | None = None

    def through(self, command: str) -> str:
        """The line that submits what `command` makes of the file, which it reads from stdin."""
        if self._plain is None:
            return f"{self._contents} | {command} | {_SUBMIT}"
        return f"{command} < {self._plain} | {_SUBMIT}"

    def by(self, command: str) -> str:
        """The same for a tool that reads no pipe: `command` has `{file}` where the path goes."""
        if self._plain is None:
            return f"{self._contents} > {_UNPACKED} && {command.format(file=_UNPACKED)} | {_SUBMIT}"
        return f"{command.format(file=self._plain)} | {_SUBMIT}"

    @property
    def _plain(self) -> str | None:
        return None if self.kind or self.path is None else shlex.quote(self.path)

    @property
    def _contents(self) -> str:
        """What writes the file's contents to stdout."""
        unpack = _UNPACK.get(self.kind or "")
        if self.path is None:
            return f"… | {unpack}" if unpack else "…"
        return f"{unpack} < {shlex.quote(self.path)}"
