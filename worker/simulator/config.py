"""The simulator's settings, with their defaults; `POST /_sim/config` changes them while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Milliseconds = Annotated[float, Field(ge=0, le=600_000)]
Seconds = Annotated[float, Field(ge=0, le=86_400)]


class SimulatorConfig(BaseModel):
    """How the simulated provider behaves. All times are as a client would see them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first_token_delay: Milliseconds = Field(default=120, description="Milliseconds from the request to the first token")
    token_delay: Milliseconds = Field(default=20, description="Milliseconds between tokens")
    tokens: Annotated[int, Field(ge=1, le=1_000_000)] = Field(default=40, description="Length of an answer")

    accept_any_key: bool = Field(
        default=True, description="Any key works, with endless credits; false: only configured ones"
    )
    strict_models: bool = Field(default=False, description="404 for a model that is not in the catalogue")
    maintenance: tuple[str, ...] = Field(default=(), description="Models that answer 500 `under maintenance`")
    max_request_bytes: Annotated[int, Field(ge=1)] = Field(default=8 * 1024 * 1024, description="413 above")

    rpm: Annotated[int, Field(ge=0)] | None = Field(default=None, description="Requests a window, per key and model")
    tpm: Annotated[int, Field(ge=0)] | None = Field(default=None, description="Tokens a window, per key and model")
    capacity: Annotated[int, Field(ge=0)] | None = Field(default=None, description="Calls in flight, per key and model")
    window_seconds: Annotated[float, Field(gt=0)] = Field(default=60, description="The window of rpm and tpm")
    limit_headers: dict[str, str] = Field(default_factory=dict, description="Headers of a 429 by these limits")
    logs_rpm: Annotated[int, Field(ge=0)] = Field(default=200, description="Requests a minute to /v2/logs, per key")

    charge_lag: Seconds = Field(default=0.25, description="Seconds from the end of the answer to its row and charge")
    history: Annotated[int, Field(ge=1)] = Field(default=200_000, description="Log rows kept, newest")

    journal: Path | None = Field(default=None, description="The journal's file; none: no journal is written")
    journal_fsync: bool = Field(default=True, description="Wait for the disk at each line")
