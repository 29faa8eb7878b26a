"""Templates: everything that comes into a page is escaped, and what would be invisible is made visible.

age, span, money     figures for people      count     1,234
time                 a <time>, which `dash.js` shows in the reader's zone
"""

from __future__ import annotations

import functools
import hashlib
import re
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from worker.base.figures import age, money, span

_HERE = Path(__file__).parent
#: Characters that command a terminal, or turn the direction of what follows: shown as what they are. `dash.js` has the same.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def visible(text: object) -> str:
    """Text that hides nothing: control characters as their pictures, marks of direction as their numbers."""
    return _UNSEEN.sub(_picture, str(text).replace("\r\n", "\n"))


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else f"⟨{code:04X}⟩"


def time(moment: datetime | None, *, exact: bool = False, ahead: bool = False) -> Markup:
    """A moment: how long ago it was or, when `exact`, the time itself in the reader's zone. The other is its title.

    `ahead`: it may be still to come. Another is past, also where the database's clock is ahead of this machine's.
    """
    if moment is None:
        return Markup("–")
    utc = f"{moment:%Y-%m-%d %H:%M:%S} UTC"
    seconds = (datetime.now(moment.tzinfo) - moment).total_seconds()
    words = f"in {span(-seconds)}" if ahead and seconds < 0 else f"{age(moment)} ago" if seconds >= 1 else "just now"
    shown, title, kind = (utc, words, "exact") if exact else (words, utc, "ago")
    return Markup('<time datetime="{}" title="{}" data-show="{}">{}</time>').format(
        moment.isoformat(), title, kind, shown
    )


@functools.cache
def static(name: str) -> tuple[bytes, str]:
    """A file of `static/`, and what names this version of it."""
    data = (_HERE / "static" / name).read_bytes()
    return data, hashlib.sha256(data).hexdigest()[:16]


def _asset(name: str) -> str:
    return f"/ui/static/{name}?v={static(name)[1]}"


def _query(values: dict[str, Any], **changed: Any) -> str:
    """A query with some values changed; None and empty ones are left out."""
    left = {name: value for name, value in (values | changed).items() if value not in {None, ""}}
    return f"?{urlencode(left)}" if left else ""


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    made.filters |= {"age": age, "money": money, "span": span, "time": time}
    made.filters["count"] = lambda number: f"{number:,}"
    made.globals |= {"asset": _asset, "query": _query}
    return made


def rendered(template: str, **values: Any) -> str:
    """A template with values."""
    return _environment().get_template(template).render(values)
