"""Tables for people, readable at any width: ids are never cut, what matters least goes first, texts give way.

A column is one of three kinds. What there is no room for is left out from the highest `drop` down; then texts become
narrower than they should be, then columns go from the right: a number that is cut would be another number. The first stays.

    whole(name)    keeps its width: ids, numbers, states
    text(name)     as many lines as it needs
    line(name)     one line, cut short with an ellipsis
"""

from __future__ import annotations

from typing import Any, Literal

import rich.table
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType, RenderResult

from worker.cli.output import cell

#: How narrow texts become before a column goes that has no `drop`.
_NARROW = 12
#: Characters between two columns of a table.
_GAP = 2

Kind = Literal["whole", "text", "line"]


class Table(rich.table.Table):
    """A table in which no cell commands the terminal or forges a line, whatever a model, an id or a file is called.

    Args:
        headings: columns that keep their whole width.
    """

    def __init__(self, *headings: str, **options: Any) -> None:
        super().__init__(
            **{"box": None, "padding": (0, _GAP, 0, 0), "pad_edge": False, "header_style": "dim"} | options
        )
        self._shape: list[tuple[Kind, int, int]] = []  # kind, least width, drop
        for heading in headings:
            self.whole(heading)

    def whole(
        self, heading: str = "", *, footer: str = "", justify: JustifyMethod = "left", style: str = "", drop: int = 0
    ) -> None:
        """A column that is never cut."""
        self.add_column(heading, footer, justify=justify, style=style, no_wrap=True)
        self._shape.append(("whole", 0, drop))

    def numbers(self, *headings: str, drop: int = 0) -> None:
        """Columns of numbers: never cut, to the right."""
        for heading in headings:
            self.whole(heading, justify="right", drop=drop)

    def text(self, heading: str = "", *, footer: str = "", least: int = 20, drop: int = 0) -> None:
        """A column whose texts take as many lines as they need, `least` characters wide."""
        self.add_column(heading, footer, overflow="fold")
        self._shape.append(("text", least, drop))

    def line(self, heading: str = "", *, footer: str = "", least: int = 10, drop: int = 0) -> None:
        """A column whose texts are cut to one line, `least` characters wide."""
        self.add_column(heading, footer, overflow="ellipsis", no_wrap=True)
        self._shape.append(("line", least, drop))

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row; texts are neutralised."""
        super().add_row(*(cell(one) if isinstance(one, str) else one for one in cells), **options)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Fit the columns to the width, then draw."""
        self._fit(options.max_width)
        yield from super().__rich_console__(console, options)

    def _fit(self, width: int) -> None:
        natural = [
            max(cell_len(str(one)) for one in (column.header, column.footer, *column.cells)) for column in self.columns
        ]
        crowded = sum(natural) + self.padding[1] * (len(natural) - 1) > width
        for at in reversed(range(len(self._shape))):  # what is empty takes no room from what is not
            if crowded and self._shape[at][2] and not any(map(str, self.columns[at].cells)):
                del self._shape[at], natural[at], self.columns[at]
        while self._least(natural) > width and len(self._shape) > 1:
            at = max(range(len(self._shape)), key=lambda one: (self._shape[one][2], one))
            if not self._shape[at][2] and any(least > _NARROW for _, least, _ in self._shape):
                self._shape = [(kind, min(least, _NARROW), drop) for kind, least, drop in self._shape]
                continue
            del self._shape[at], natural[at], self.columns[at]
        for at, column in enumerate(self.columns):
            column._index = at  # noqa: SLF001 -- rich pads the last column otherwise, and has no way to remove one
        spare = width - self._least(natural)
        for column, whole, (kind, least, _) in zip(self.columns, natural, self._shape, strict=True):
            if kind != "whole" and whole > least:
                column.width = least + max(0, min(spare, whole - least))
                spare -= column.width - least

    def _least(self, natural: list[int]) -> int:
        """How narrow it can be."""
        shape = zip(natural, self._shape, strict=True)
        widths = [whole if kind == "whole" else min(whole, least) for whole, (kind, least, _) in shape]
        return sum(widths) + self.padding[1] * (len(widths) - 1)


def facts() -> Table:
    """A list of names with their values: no heading, the values take as many lines as they need."""
    table = Table(show_header=False)
    table.whole(style="dim")
    table.text()
    return table


def items() -> Table:
    """A list of marks with their texts, which take as many lines as they need."""
    table = Table(show_header=False, padding=(0, 1, 0, 0))
    table.whole()
    table.text()
    return table
