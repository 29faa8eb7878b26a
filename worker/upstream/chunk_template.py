"""The shape of a stream's ordinary chunk, so that the next one of the same shape need not be parsed.

Chunk after chunk a stream sends the same bytes but for its piece of text (and OpenAI's padding). In a JSON text without
a backslash a key stands as it is spelled. So where `"content"` stands but once, a text that is equal up to the string
behind it, goes on with other characters that need no escape, and is equal again behind them is valid JSON, and the same
value but for that string. All else is for the parser.
"""

from __future__ import annotations

_TEXT = b'"content":"'
_PADDING = b'"obfuscation":"'


class ChunkTemplate:
    """What stands around the text of one parsed chunk, and around the padding if it has one."""

    __slots__ = ("_end", "_head", "_middle")

    def __init__(self, head: bytes, middle: bytes, end: bytes | None) -> None:
        self._head = head
        self._middle = middle  # what stands behind the text: all of it, or as far as the padding
        self._end = end  # what stands behind the padding; None when there is none

    @classmethod
    def of(cls, chunk: bytes, text: str, padding: str | None) -> ChunkTemplate | None:
        """The template of a parsed chunk; None when it is not of a shape to be repeated.

        Args:
            chunk: its JSON.
            text: what its one key `content` holds.
            padding: what `obfuscation` holds at the top level, None without one.
        """
        if b"\\" in chunk or chunk.count(b'"content"') != 1:
            return None
        head, key, behind = chunk.partition(_TEXT + text.encode() + b'"')
        if not key:
            return None
        if padding is None:
            return cls(head + _TEXT, b'"' + behind, None)
        middle, key, end = behind.partition(_PADDING + padding.encode() + b'"')
        if not key or chunk.count(b'"obfuscation"') != 1:
            return None
        return cls(head + _TEXT, b'"' + middle + _PADDING, b'"' + end)

    def text_of(self, chunk: bytes) -> str | None:
        """The text of a chunk of this shape; None when it must be parsed."""
        if not chunk.startswith(self._head):
            return None
        start = len(self._head)
        stop = chunk.find(b'"', start)
        if not chunk.startswith(self._middle, stop):
            return None
        raw, behind = chunk[start:stop], stop + len(self._middle)
        if self._end is None:
            if behind != len(chunk):
                return None
        else:
            padding, end = chunk[behind : len(chunk) - len(self._end)], self._end
            if not (chunk.endswith(end) and padding.isalnum() and len(chunk) == behind + len(padding) + len(end)):
                return None
        if b"\\" in raw:
            return None
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            return None
        return text if text.isprintable() else None  # JSON has no control characters in its strings
