"""What people asked and were answered, encrypted where it is kept: the one codec of payloads.

With `STOCKPOT_PAYLOAD_KEY` (one key, or several separated by commas: the first encrypts, all decrypt) each value is
encrypted with AES-256-GCM under a key of its own, derived from the setting's key and the value's place (its column
and the id of its row). So a value that is moved to another row or column does not open, and no key encrypts so much
that two of its random nonces could be the same. Without the setting nothing is encrypted, and values that are
encrypted do not open.

    text     sealed:1:<key id>:<base64 of nonce, ciphertext and tag>
    JSON     the same as a JSON string: a request and an answer are objects, so that nothing else looks like it
    bytes    NUL, "sealed:1:<key id>:", then nonce, ciphertext and tag

A clear value that begins as an encrypted one does is written as `sealed:0:` and itself, so that none is taken for it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Sequence
from typing import TypeVar

from worker.base.errors import SettingsError
from worker.base.settings import Settings

_MARK = "sealed:"
_SEALED, _CLEAR = "sealed:1:", "sealed:0:"
_JSON_MARK, _JSON_CLEAR = '"sealed:', '"sealed:0:'
_BYTES_MARK, _BYTES_SEALED, _BYTES_CLEAR = b"\0sealed:", b"\0sealed:1:", b"\0sealed:0:"
_NONCE_BYTES = 12
_ID_LENGTH = 8

#: Text, or none where a column has none.
MaybeText = TypeVar("MaybeText", str, str | None)


class Unreadable(SettingsError):
    """A payload is encrypted with a key that this process does not have, or was changed. Nothing is lost by it."""


class Payloads:
    """Encrypts and decrypts payloads with these keys; the first encrypts. Without keys payloads stay clear."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._masters = {_key_id(master): master for master in map(_master, keys)}
        self._first = next(iter(self._masters.items()), None)

    @classmethod
    def of(cls, settings: Settings) -> Payloads:
        """The codec of a configuration."""
        return cls(settings.payload_keys) if settings.payload_key is not None else CLEAR

    @property
    def key_ids(self) -> list[str]:
        """The short names of the keys; the first encrypts. Empty: payloads are clear."""
        return list(self._masters)

    def current(self) -> tuple[str, bytes]:
        """How text and bytes begin that are encrypted with the first key."""
        key_id = self.key_ids[0]
        return f"{_SEALED}{key_id}:", b"%b%b:" % (_BYTES_SEALED, key_id.encode())

    def seal(self, value: MaybeText, place: str) -> MaybeText:
        """Encrypt text for a place (`column:row`)."""
        if value is None:
            return value
        if self._first is None:
            return _CLEAR + value if value.startswith(_MARK) else value
        key_id, master = self._first
        sealed = base64.b64encode(_encrypt(master, value.encode("utf-8", "surrogatepass"), place.encode()))
        return f"{_SEALED}{key_id}:{sealed.decode()}"

    def open(self, value: MaybeText, place: str) -> MaybeText:
        """Decrypt what `seal` made for this place.

        Raises:
            Unreadable: its key is not here, or it was changed.
        """
        if value is None or not value.startswith(_MARK):
            return value
        if value.startswith(_CLEAR):
            return value[len(_CLEAR) :]
        if not value.startswith(_SEALED):
            return value
        key_id, _, sealed = value[len(_SEALED) :].partition(":")
        try:
            raw = base64.b64decode(sealed, validate=True)
        except binascii.Error:
            raise _damaged(key_id, place) from None
        return self._decrypt(key_id, raw, place).decode("utf-8", "surrogatepass")

    def seal_json(self, value: MaybeText, place: str) -> MaybeText:
        """Encrypt JSON text; what comes out is JSON, too."""
        if value is None:
            return value
        if self._first is not None:
            return f'"{self.seal(value, place)}"'
        return _JSON_CLEAR + value[1:] if value.startswith(_JSON_MARK) else value

    def open_json(self, value: MaybeText, place: str) -> MaybeText:
        """Decrypt what `seal_json` made for this place. Raises Unreadable, as `open`."""
        if value is None or not value.startswith(_JSON_MARK):
            return value
        if value.startswith(_JSON_CLEAR):
            return '"' + value[len(_JSON_CLEAR) :]
        return self.open(value[1:-1], place)

    def seal_bytes(self, value: bytes, place: str) -> bytes:
        """Encrypt bytes for a place."""
        if self._first is None:
            return _BYTES_CLEAR + value if value.startswith(_BYTES_MARK) else value
        key_id, master = self._first
        return b"%b%b:%b" % (_BYTES_SEALED, key_id.encode(), _encrypt(master, value, place.encode()))

    def open_bytes(self, value: bytes, place: str) -> bytes:
        """Decrypt what `seal_bytes` made for this place. Raises Unreadable, as `open`."""
        if not value.startswith(_BYTES_MARK):
            return value
        if value.startswith(_BYTES_CLEAR):
            return value[len(_BYTES_CLEAR) :]
        start = len(_BYTES_SEALED) + _ID_LENGTH
        return self._decrypt(value[len(_BYTES_SEALED) : start].decode("ascii", "replace"), value[start + 1 :], place)

    def _decrypt(self, key_id: str, raw: bytes, place: str) -> bytes:
        master = self._masters.get(key_id)
        if master is None:
            raise Unreadable(missing(key_id, self.key_ids))
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # who has no key imports nothing of it

        aad = place.encode()
        try:
            return AESGCM(_subkey(master, aad)).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], aad)
        except (InvalidTag, ValueError):
            raise _damaged(key_id, place) from None


def missing(key_id: str, have: Sequence[str]) -> str:
    """The words for a key that is not here."""
    here = f"it lists {', '.join(have)}" if have else "it is not set"
    return (
        f"STOCKPOT_PAYLOAD_KEY: payloads here are encrypted with the key {key_id}, and {here};"
        f" add that key to the list, nothing is lost meanwhile"
    )


def _damaged(key_id: str, place: str) -> Unreadable:
    return Unreadable(
        f"STOCKPOT_PAYLOAD_KEY: a payload of the key {key_id} does not open: {place} was changed, or stood elsewhere"
    )


def _encrypt(master: bytes, value: bytes, place: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(_subkey(master, place)).encrypt(nonce, value, place)


def _subkey(master: bytes, place: bytes) -> bytes:
    return hmac.digest(master, place, "sha256")


def _master(key: str) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"stockpot payloads 1").derive(key.encode())


def _key_id(master: bytes) -> str:
    return hashlib.sha256(b"stockpot payload key id:" + master).hexdigest()[:_ID_LENGTH]


#: Of those who have no key.
CLEAR = Payloads()
