"""Settings that list keys: a comma separates them. What is no list is refused by the place of its part, which is never shown."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import SecretStr

#: In characters: with less, a copy of the database could be opened by guessing.
SHORTEST_KEY = 16


def listed(value: SecretStr | None) -> list[str]:
    """The keys of a setting; none where it is unset."""
    return [] if value is None else [part.strip() for part in value.get_secret_value().split(",")]


def check_keys(value: SecretStr | None) -> SecretStr | None:
    """The setting as it is, if each of its parts can be a key. Raises ValueError."""
    return check_parts(value, _check_length)


def check_parts(value: SecretStr | None, check: Callable[[str], object]) -> SecretStr | None:
    """The setting as it is, if `check` raises ValueError for none of its parts. Raises ValueError, with the part's place."""
    parts = listed(value)
    for number, part in enumerate(parts, 1):
        try:
            if not part and len(parts) > 1:
                raise ValueError("is empty")
            if part in parts[: number - 1]:
                raise ValueError(f"is the same as part {parts.index(part) + 1}")
            check(part)
        except ValueError as error:
            if len(parts) == 1:
                raise ValueError(f"it {error}") from None
            raise ValueError(
                f"a comma separates keys, so no key has one in it: part {number} of {len(parts)} {error}"
            ) from None
    return value


def _check_length(part: str) -> None:
    if len(part) < SHORTEST_KEY:
        raise ValueError(f"has fewer than {SHORTEST_KEY} characters; make it random (openssl rand -base64 32)")
