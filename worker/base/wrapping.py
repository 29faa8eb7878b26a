"""Live text in a terminal: lines break at spaces, though the text comes in pieces that end anywhere."""

from __future__ import annotations

import re

from rich.cells import cell_len

#: A word that is longer than this is shown as it comes: text without spaces (Chinese, base64) is never held back.
_HELD_CELLS = 24
_PARTS = re.compile(r"\n|[^\S\n]+|\S+")


class Wrapper:
    """Turns pieces of text into what is written for them.

    A word that is not over yet is held back until its end is known to fit, or does not.

    Args:
        width: of the terminal, in cells; below 20 nothing is wrapped.
    """

    def __init__(self, width: int) -> None:
        self._width, self._column, self._word = width, 0, ""

    def feed(self, piece: str) -> str:
        """What to write now."""
        if self._width < 20:
            return piece
        return "".join(self._take(part) for part in _PARTS.findall(piece))

    def end(self) -> str:
        """What is still held back; the next piece begins anew, at the start of a line."""
        word, self._word = self._word, ""
        written = self._place(word)
        self._column = 0
        return written

    def _take(self, part: str) -> str:
        if not part.isspace():
            self._word += part
            return self._flush() if cell_len(self._word) > _HELD_CELLS else ""
        word = self._flush()
        if part == "\n":
            self._column = 0
            return word + part
        # A space at the end of a line would only begin the next one.
        self._column += cell_len(part)
        return word + part if self._column < self._width else word

    def _flush(self) -> str:
        word, self._word = self._word, ""
        return self._place(word)

    def _place(self, word: str) -> str:
        cells = cell_len(word)
        if word and self._column and self._column + cells > self._width:
            self._column = cells % self._width
            return f"\n{word}"
        self._column += cells
        if self._column > self._width:  # a long word goes over the edge by itself
            self._column %= self._width
        return word
