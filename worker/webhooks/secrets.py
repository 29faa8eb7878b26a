"""Webhook secrets at rest, and the secret that signs a tenant's per-job URLs.

Endpoint secrets are stored encrypted (Fernet: AES-128-CBC with HMAC-SHA256) as `<key id>:<token>`. The keys come from
`STOCKPOT_SECRET_KEY`, one or several separated by commas: the first encrypts, all decrypt, so a key is replaced by
putting the new one in front. Without the setting a key is made once and kept in `secret.key` under the home, readable
by its owner only: right for one machine. Several machines must share `STOCKPOT_SECRET_KEY`.

A per-job URL has no row to keep a secret in: it is signed with a secret derived from the key and the tenant's name,
hence one that never needs storing, and each tenant has its own. `STOCKPOT_WEBHOOK_SECRET` replaces the one of the
tenant `default`; it may list several, and then all of them sign.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import os
import secrets
from collections.abc import Callable, Sequence

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from worker.base import private
from worker.base.errors import InvalidRequest, SettingsError
from worker.base.key_lists import SHORTEST_KEY
from worker.base.log import get_logger
from worker.base.settings import Settings
from worker.base.webhook_settings import signing_secrets
from worker.db.url import database_url
from worker.webhooks.signing import key_of, spell

log = get_logger("stockpot.webhooks")

KEY_FILE = "secret.key"
DEFAULT_TENANT = "default"


class Vault:
    """Encrypts and decrypts secrets with the settings' keys. Build one per process: it derives keys once.

    Args:
        masters: the keys, the first encrypts; or a function that fetches them at the first need.
        tenant_secrets: `whsec_…` that replace the derived ones of the default tenant.
    """

    def __init__(self, masters: list[bytes] | Callable[[], list[bytes]], *, tenant_secrets: Sequence[str] = ()) -> None:
        self._given = masters
        self._default_keys = [key_of(secret) for secret in tenant_secrets]

    @classmethod
    def of(cls, settings: Settings) -> Vault:
        """The vault of a configuration. Without a key it makes the key file under the home at the first need.

        Raises:
            SettingsError: STOCKPOT_WEBHOOK_SECRET is none.
        """
        masters = [key.encode() for key in settings.secret_keys] or functools.partial(_kept_keys, settings)
        try:
            return cls(masters, tenant_secrets=signing_secrets(settings.webhook_secret))
        except InvalidRequest as error:
            raise SettingsError(f"STOCKPOT_WEBHOOK_SECRET: {error}") from None

    @functools.cached_property
    def _masters(self) -> list[bytes]:
        return self._given() if callable(self._given) else self._given

    @functools.cached_property
    def _fernets(self) -> dict[str, Fernet]:
        return {_key_id(master): Fernet(_derive(master, b"storage")) for master in self._masters}

    @property
    def key_ids(self) -> list[str]:
        """The short names of the keys; the first seals."""
        return list(self._fernets)

    def seal(self, secret: str) -> str:
        """Encrypt a secret with the first key."""
        key_id, fernet = next(iter(self._fernets.items()))
        return f"{key_id}:{fernet.encrypt(secret.encode()).decode()}"

    def open(self, sealed: str) -> str:
        """Decrypt what `seal` made.

        Raises:
            SettingsError: it was encrypted with a key that is no longer (or not yet) in STOCKPOT_SECRET_KEY, or the
                key file under the home cannot be kept.
        """
        key_id, _, token = sealed.partition(":")
        fernet = self._fernets.get(key_id)
        if fernet is None:
            raise SettingsError(
                f"STOCKPOT_SECRET_KEY: a webhook secret needs the key {key_id}, which is not in the list"
            )
        try:
            return fernet.decrypt(token).decode()
        except InvalidToken:
            raise SettingsError(f"STOCKPOT_SECRET_KEY: a webhook secret of the key {key_id} is damaged") from None

    def is_current(self, sealed: str) -> bool:
        """Whether this was encrypted with the first key; if not, seal it again before the old key goes."""
        return sealed.partition(":")[0] == next(iter(self._fernets))

    def tenant_keys(self, tenant: str) -> list[bytes]:
        """The keys that sign a tenant's per-job URLs, the newest first; more than one while a key rotates."""
        if tenant == DEFAULT_TENANT and self._default_keys:
            return self._default_keys
        return [_derive_raw(master, b"tenant:" + tenant.encode()) for master in self._masters]

    def stream_keys(self) -> list[bytes]:
        """The keys that sign the URLs of live streams, the newest first; more than one while a key rotates."""
        return [_derive_raw(master, b"stream urls") for master in self._masters]

    def tenant_secret(self, tenant: str) -> str:
        """The secret to give to the receivers of a tenant's per-job URLs."""
        return spell(self.tenant_keys(tenant)[0])


def _kept_keys(settings: Settings) -> list[bytes]:
    """The one key in the home, made at the first call. Two processes that make it at once agree on one."""
    home = settings.home
    path = home / KEY_FILE
    try:
        if not path.exists():
            if database_url(settings).get_backend_name() != "sqlite":
                log.warning("webhook_key_made", mend="set STOCKPOT_SECRET_KEY, the same on every machine")
            private.make_directory(home)
            draft = home / f".{KEY_FILE}.{os.getpid()}.{secrets.token_hex(4)}"
            with private.open_binary(draft, "xb") as file:
                file.write(base64.urlsafe_b64encode(secrets.token_bytes(32)))
                file.flush()
                os.fsync(file.fileno())
            # A link, unlike a rename, fails when another process was first: its key stands.
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
            draft.unlink()
        private.close_file(path)
        key = path.read_bytes().strip()
    except OSError as error:
        raise SettingsError(f"STOCKPOT_SECRET_KEY is not set and {path} cannot be kept: {error.strerror}") from error
    if len(key) < SHORTEST_KEY:
        raise SettingsError(f"{path} holds no key; set STOCKPOT_SECRET_KEY, or restore the file")
    return [key]


def _key_id(master: bytes) -> str:
    return hashlib.sha256(b"stockpot key id:" + _derive_raw(master, b"id")).hexdigest()[:8]


def _derive(master: bytes, purpose: bytes) -> bytes:
    return base64.urlsafe_b64encode(_derive_raw(master, purpose))


def _derive_raw(master: bytes, purpose: bytes) -> bytes:
    """32 bytes for one purpose (RFC 5869), so that no use of the key reveals anything of another."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"stockpot webhooks 1 " + purpose).derive(master)
