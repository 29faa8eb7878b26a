"""Query parameters of lists and flags; a value that would be ignored is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from starlette.requests import Request

from worker.gateway.answers import Answer, list_response
from worker.gateway.errors import ApiError

Order = Literal["asc", "desc"]


def check_query(request: Request, *known: str) -> None:
    """Refuse a parameter that would be ignored, and one that is given twice. Raises ApiError 400.

    `name[]` in `known` is a list of values, each given as `name[]` or, alone, as `name`.
    """
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known and f"{name}[]" not in known:
            raise ApiError(400, f"Unknown parameter: '{name[:64]}'.", param=name[:64], code="unknown_parameter")
        if names.count(name) > 1 and not name.endswith("[]"):
            raise ApiError(400, f"'{name}' is given twice.", param=name, code="invalid_value")


def flag(request: Request, name: str) -> bool:
    """A boolean parameter; False when it is left out."""
    value = request.query_params.get(name, "false").lower()
    if value not in {"true", "false", "1", "0"}:
        raise refused(name, "expected `true` or `false`")
    return value in {"true", "1"}


def number(request: Request, name: str, *, least: int = 0, most: int = 2**53) -> int | None:
    """A whole number; None when it is left out."""
    value = request.query_params.get(name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 17 and least <= int(value) <= most):
        raise refused(name, f"expected a whole number from {least:,} to {most:,}")
    return int(value)


def order_of(request: Request, default: Order) -> Order:
    """`order`."""
    value = request.query_params.get("order", default)
    if value == "asc":
        return "asc"
    if value == "desc":
        return "desc"
    raise refused("order", "expected `asc` or `desc`")


def page(request: Request, items: Sequence[dict[str, Any]], *, default_order: Order, limit: int, most: int) -> Answer:
    """One page of a list that is all there, in the order of its making; `after` is the last id of the page before."""
    size = number(request, "limit", least=1, most=most) or limit
    listed = list(items) if order_of(request, default_order) == "asc" else list(items)[::-1]
    after = request.query_params.get("after")
    if after is not None:
        ids = [item["id"] for item in listed]
        if after not in ids:
            raise refused("after", "there is no item of that id in this list")
        listed = listed[ids.index(after) + 1 :]
    return list_response(listed[:size], has_more=len(listed) > size)


def refused(name: str, why: str) -> ApiError:
    """400 for a parameter."""
    return ApiError(400, f"Invalid '{name}': {why}.", param=name, code="invalid_value")
