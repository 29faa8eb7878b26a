"""click's `ParamType` with its type parameter, which click's own class takes from 8.2 on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click import ParamType

    __all__ = ["ParamType"]
else:

    class ParamType(click.ParamType):
        """A kind of value: `class Dollars(ParamType[Decimal])`."""

        def __class_getitem__(cls, _value: object) -> type:
            """The class itself."""
            return cls
