"""The metadata that a caller attaches to a job."""

from __future__ import annotations

from typing import Any

from pydantic_core import PydanticCustomError

from api_schemas.text import storable

# OpenAI's limits for metadata, so that a body's metadata fits here too.
MAX_PAIRS = 16
MAX_KEY = 64
MAX_VALUE = 512
MAX_METADATA_BYTES = 16_384
"""Bytes of all pairs together, in UTF-8: metadata is copied into every event and report of a job."""


def check_metadata(metadata: dict[str, Any]) -> dict[str, str]:
    """At most 16 pairs of strings, keys of 1 to 64 characters, values of at most 512; else a pydantic error."""
    if len(metadata) > MAX_PAIRS:
        raise _refused(f"expected at most {MAX_PAIRS} pairs, got {len(metadata):,}")
    for key, value in metadata.items():
        if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY:
            raise _refused(f"expected keys of 1 to {MAX_KEY} characters")
        if storable(key) != key or (isinstance(value, str) and storable(value) != value):
            raise _refused("contains NUL or half of a surrogate pair; remove it")
        if not isinstance(value, str) or len(value) > MAX_VALUE:
            raise _refused(f'expected strings of at most {MAX_VALUE} characters as values; "{key}" is none')
    size = sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())
    if size > MAX_METADATA_BYTES:
        raise _refused(f"expected at most {MAX_METADATA_BYTES:,} bytes in all, got {size:,}")
    return metadata


def _refused(why: str) -> PydanticCustomError:
    return PydanticCustomError("refused", "refused", {"why": why})
