"""What a terminal can show."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def moves(console: Console) -> bool:
    """Whether what is shown can be drawn over: a pipe cannot, nor can a dumb terminal (Emacs' shell, some CI)."""
    return console.file.isatty() and not console.is_dumb_terminal
