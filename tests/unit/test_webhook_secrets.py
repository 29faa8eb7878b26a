"""Secrets at rest: encrypted, rotatable, one key file that only its owner can read."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest
from pydantic import SecretStr

from worker.base.errors import SettingsError
from worker.base.settings import Settings, load
from worker.webhooks.secrets import KEY_FILE, Vault
from worker.webhooks.signing import key_of, new_secret

OLD, NEW = "an old key that is long enough", "a new key that is long enough"


def vault(home: Path, key: str | None = None, **more: str) -> Vault:
    """The vault of a configuration."""
    given = {name: SecretStr(value) for name, value in more.items()}
    return Vault.of(Settings(home=home, secret_key=SecretStr(key) if key else None, **given))  # type: ignore[arg-type]


def test_a_sealed_secret_shows_nothing_and_opens_again(tmp_path: Path) -> None:
    """And the same secret is sealed differently each time."""
    secret = new_secret()
    sealed = vault(tmp_path, OLD).seal(secret)
    assert secret.removeprefix("whsec_") not in sealed
    assert vault(tmp_path, OLD).seal(secret) != sealed
    assert vault(tmp_path, OLD).open(sealed) == secret


def test_a_key_is_replaced_by_putting_the_new_one_in_front(tmp_path: Path) -> None:
    """What the old key sealed still opens, is known as old, and no longer opens when the old key is gone."""
    sealed = vault(tmp_path, OLD).seal("whsec_x")
    both = vault(tmp_path, f"{NEW}, {OLD}")
    assert both.open(sealed) == "whsec_x"
    assert not both.is_current(sealed)
    assert both.is_current(both.seal("whsec_x"))
    with pytest.raises(SettingsError, match="STOCKPOT_SECRET_KEY"):
        vault(tmp_path, NEW).open(sealed)


def test_a_damaged_secret_is_an_error_and_not_another_secret(tmp_path: Path) -> None:
    """Encryption is authenticated."""
    sealed = vault(tmp_path, OLD).seal("whsec_x")
    damaged = sealed[:-6] + ("A" if sealed[-6] != "A" else "B") + sealed[-5:]
    with pytest.raises(SettingsError, match="damaged"):
        vault(tmp_path, OLD).open(damaged)


def test_without_a_setting_one_key_is_made_and_kept_for_its_owner(tmp_path: Path) -> None:
    """Mode 0600; a second start reads the same key; nothing else is left in the home."""
    home = tmp_path / "home"
    sealed = vault(home).seal("whsec_x")
    assert stat.S_IMODE((home / KEY_FILE).stat().st_mode) == 0o600
    assert vault(home).open(sealed) == "whsec_x"
    assert [path.name for path in home.iterdir()] == [KEY_FILE]


def test_processes_that_make_the_key_at_once_agree_on_one(tmp_path: Path) -> None:
    """The first link stands."""
    barrier = threading.Barrier(8)
    secrets: list[str] = []

    def start() -> None:
        barrier.wait()
        secrets.append(vault(tmp_path / "home").tenant_secret("default"))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(secrets) == 8
    assert len(set(secrets)) == 1


def test_each_tenant_has_its_own_secret_and_keeps_it(tmp_path: Path) -> None:
    """Derived: the same at every start, none says anything of another."""
    first, second = vault(tmp_path, OLD), vault(tmp_path, OLD)
    assert first.tenant_secret("a") == second.tenant_secret("a")
    assert len({first.tenant_secret(name) for name in ("default", "a", "b")}) == 3
    assert len(key_of(first.tenant_secret("a"))) == 32
    assert len(vault(tmp_path, f"{NEW},{OLD}").tenant_keys("a")) == 2, "both sign while the key is replaced"


def test_a_secret_from_the_settings_is_the_default_tenants_only(tmp_path: Path) -> None:
    """Another tenant's receivers must not be able to sign for the default one."""
    secret = new_secret()
    given = vault(tmp_path, OLD, webhook_secret=secret)
    assert given.tenant_secret("default") == secret
    assert given.tenant_secret("other") == vault(tmp_path, OLD).tenant_secret("other")


def test_what_cannot_be_a_secret_is_refused_by_the_settings_name(tmp_path: Path) -> None:
    """As the settings are read, by producers too. And not repeated."""
    with pytest.raises(SettingsError, match="STOCKPOT_WEBHOOK_SECRET") as caught:
        load(home=tmp_path, secret_key=OLD, webhook_secret="whsec_short")
    assert "whsec_short" not in str(caught.value)
