"""Arguments of a wrong type, refused by name and before anything is done with them: the annotations are the rule.

What an annotation cannot decide by itself (a protocol, a name that is only there for type checkers, a type variable) is not
looked at. Numbers of other libraries are numbers, any mapping is one, and a moment must know its time zone.
"""

from __future__ import annotations

import builtins
import collections.abc
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache, wraps
from numbers import Integral, Real
from typing import Any, BinaryIO, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from api_schemas.errors import FieldProblem, InvalidRequest

C = TypeVar("C")

_WORDS: Mapping[Any, tuple[type | tuple[type, ...], str]] = {
    str: (str, "a text"),
    bytes: (bytes, "bytes"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    bool: (bool, "true or false"),
    Decimal: (Decimal, "a Decimal"),
    timedelta: (timedelta, "a timedelta"),
    dict: (collections.abc.Mapping, "a mapping"),
    collections.abc.Mapping: (collections.abc.Mapping, "a mapping"),
    type(None): (type(None), ""),
}
_LISTS = frozenset(
    {list, tuple, set, frozenset, *(getattr(collections.abc, name) for name in ("Sequence", "Collection"))}
)


class _Kind(NamedTuple):
    """What is expected: a check, and its words (empty for None)."""

    fits: Callable[[Any], bool]
    words: str


class _Unknown:
    """The value of a name that only type checkers know."""

    def __class_getitem__(cls, _: object) -> type[_Unknown]:
        return cls


class _Names(dict[str, Any]):
    def __init__(self, known: Mapping[str, Any]) -> None:
        super().__init__()
        self._known = known

    def __missing__(self, name: str) -> Any:
        return self._known.get(name, getattr(builtins, name, _Unknown))


def check_types(given: Mapping[str, Any], known: type) -> None:
    """Check options against the fields of a TypedDict. Raises InvalidRequest with every problem."""
    _refuse(given.items(), _kinds(known))


def typed(owner: type[C]) -> type[C]:
    """Check the arguments of every public method of a class. They raise InvalidRequest with every problem."""
    for name, verb in list(vars(owner).items()):
        if not name.startswith("_") and inspect.isfunction(verb) and not hasattr(verb, "__wrapped__"):
            setattr(owner, name, _checked(verb))
    return owner


def _checked(verb: Callable[..., Any]) -> Callable[..., Any]:
    names = verb.__code__.co_varnames[: verb.__code__.co_argcount]

    def check(args: tuple[Any, ...], options: dict[str, Any]) -> None:
        _refuse([*zip(names, args, strict=False), *options.items()], _kinds(verb))

    if inspect.iscoroutinefunction(verb):

        @wraps(verb)
        async def awaited(*args: Any, **options: Any) -> Any:
            check(args, options)
            return await verb(*args, **options)

        return awaited

    @wraps(verb)
    def call(*args: Any, **options: Any) -> Any:
        check(args, options)
        return verb(*args, **options)

    return call


def _refuse(given: Iterable[tuple[str, Any]], kinds: Mapping[str, _Kind]) -> None:
    problems = [
        FieldProblem(field=name, message=f"expected {kind.words}, got {_shown(value)}")
        for name, value in given
        if (kind := kinds.get(name)) is not None and not kind.fits(value)
    ]
    if problems:
        raise InvalidRequest(problems)


def _shown(value: Any) -> str:
    """The type of what was given, and the value where it is short and harmless."""
    if isinstance(value, datetime):
        return "a moment without a time zone"
    name = type(value).__name__
    return (
        f"{value!r} ({name})"
        if isinstance(value, bool | int | float | str) and len(repr(value)) <= 40
        else f"a value of type {name}"
    )


@cache
def _kinds(of: Any) -> Mapping[str, _Kind]:
    """What each parameter of a function, or field of a TypedDict, expects; without those that cannot be checked."""
    place = getattr(of, "__globals__", None) or vars(inspect.getmodule(of))
    hints = get_type_hints(of, globalns=place, localns=_Names(place))
    hints.pop("return", None)
    return {name: kind for name, hint in hints.items() if (kind := _kind(hint)) is not None}


def _kind(hint: Any) -> _Kind | None:
    origin, inner = get_origin(hint), get_args(hint)
    if hint in _WORDS or origin in _WORDS:
        wanted, words = _WORDS[hint if hint in _WORDS else origin]
        return _Kind(lambda value: isinstance(value, wanted), words)
    if origin is Literal:
        return _Kind(lambda value: value in inner, "one of " + ", ".join(map(str, inner)))
    if origin in (Union, types.UnionType):
        return _any_of([_kind(each) for each in inner])
    if hint in _LISTS or origin in _LISTS:
        return _list_of(_kind(inner[0]) if inner else None)
    if origin is collections.abc.Iterable:
        texts = (str, bytes, collections.abc.Mapping)
        return _Kind(
            lambda value: isinstance(value, collections.abc.Iterable) and not isinstance(value, texts), "a list"
        )
    if origin is collections.abc.Callable:
        return _Kind(callable, "a function")
    if hint is BinaryIO:
        return _Kind(lambda value: hasattr(value, "read"), "a binary file")
    if hint is datetime:
        aware = "a moment with its time zone, e.g. datetime.now(UTC)"
        return _Kind(lambda value: isinstance(value, datetime) and value.tzinfo is not None, aware)
    if isinstance(hint, type) and hint not in (Any, _Unknown) and not getattr(hint, "_is_protocol", False):
        return _Kind(lambda value: isinstance(value, hint), f"a {hint.__name__}")
    return None


def _any_of(kinds: list[_Kind | None]) -> _Kind | None:
    known = [kind for kind in kinds if kind is not None]
    if len(known) < len(kinds):
        return None
    words = dict.fromkeys(kind.words for kind in known if kind.words)
    return _Kind(lambda value: any(kind.fits(value) for kind in known), " or ".join(words))


def _list_of(each: _Kind | None) -> _Kind:
    def fits(value: Any) -> bool:
        if not isinstance(value, collections.abc.Collection) or isinstance(
            value, str | bytes | collections.abc.Mapping
        ):
            return False
        return each is None or all(map(each.fits, value))

    return _Kind(fits, f"a list, each {each.words}" if each is not None and each.words else "a list")


__all__ = ["check_types", "typed"]
