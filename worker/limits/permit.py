"""What admission answers: a `Permit` for one call, or `Held` with the reason and how long it may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from worker.limits import rate_limit_headers
from worker.limits.minute import BUCKET_MS

if TYPE_CHECKING:
    from worker.limits.route import Route
    from worker.limits.route_limiter import RouteLimiter

WaitingOn = Literal["concurrency", "rpm", "tpm", "budget", "price", "paused", "retry"]


@dataclass(frozen=True, slots=True)
class Held:
    """Not now. `reason` is the job's `waiting_on`; `seconds` is when it is worth asking again."""

    reason: WaitingOn
    seconds: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a permitted call ended, as the limits see it.

    `kind` is "answer", a failure's kind (`worker.upstream.outcome.Kind`), "unused" when no call was made, or "cut" when
    this worker ended the call itself.
    `tokens` is the provider's usage, None when it gave none. `retry_after` is in seconds.
    """

    kind: str
    tokens: int | None = None
    retry_after: float = 0.0
    maintenance: bool = False
    status: int | None = None
    detail: str = ""

    @property
    def ok(self) -> bool:
        """The upstream answered the call as it deserved."""
        return self.kind in {"answer", "terminal"}

    @property
    def silent(self) -> bool:
        """It shows nothing about the upstream, neither good nor bad."""
        return self.kind in {"unused", "cut"}

    @property
    def alive(self) -> bool:
        """The upstream is there, whatever its answer: what a probe of a breaker asks."""
        return self.ok or self.kind in {"busy", "partial", "account"}

    @property
    def overloaded(self) -> bool:
        """A sign of too much at once: 429, 5xx, no answer in time."""
        return self.kind in {"busy", "retryable", "ambiguous"}

    @property
    def bad(self) -> bool:
        """A failure that counts towards opening the breaker; a refusal for load does not."""
        return self.kind in {"retryable", "ambiguous", "partial", "not_sent"}

    @property
    def requests(self) -> int:
        """Requests to give back: one that never left, does not count against the minute."""
        return -1 if self.kind in {"not_sent", "unused"} else 0

    def spent(self, reserved: int) -> int:
        """Tokens used of those reserved: the provider's word; else all that may have been used; failed calls none."""
        if self.tokens is not None:
            return max(0, self.tokens)
        return reserved if self.kind in {"answer", "partial", "ambiguous", "cut"} else 0


class Permit:
    """Leave to make one call. Call `done` exactly when it is over; a second `done` does nothing."""

    __slots__ = (
        "_over",
        "_route_limiter",
        "account_epoch",
        "booked",
        "cuts",
        "granted",
        "probe",
        "route_epoch",
        "tokens",
        "trips",
    )

    def __init__(
        self, route_limiter: RouteLimiter, tokens: int, booked: float, granted: float, probe: str | None
    ) -> None:
        """`booked` is when it was counted, in milliseconds on Redis' clock; `granted` in seconds on the loop's."""
        self._route_limiter = route_limiter
        self._over = False
        self.tokens = tokens
        self.booked = booked
        self.granted = granted
        self.probe = probe
        self.trips = 0  # of the pause that this call probes
        self.cuts = route_limiter.cuts
        self.route_epoch = route_limiter.route_epoch
        self.account_epoch = route_limiter.account_epoch

    @property
    def route(self) -> Route:
        """Whose permit it is."""
        return self._route_limiter.route

    @property
    def bucket(self) -> int:
        """The quarter of a second of the minute in which the call was counted."""
        return int(self.booked // BUCKET_MS)

    def done(
        self,
        outcome_kind: str,
        actual_tokens: int | None = None,
        *,
        retry_after: float | None = None,
        maintenance: bool = False,
        status: int | None = None,
        detail: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """The call is over. Synchronous and cheap: what it means is sent with the next batch.

        Args:
            outcome_kind: "answer", a `Kind`, "unused" when the call was not made after all, or "cut" when we ended it.
            actual_tokens: input and output tokens as the provider counted them.
            retry_after: seconds that the upstream asked to wait, where it did.
            maintenance: the upstream's answer names maintenance of the model.
            status: the HTTP status, which distinguishes a refused key from an empty account.
            detail: the upstream's words for people; never a key or a prompt.
            headers: the answer's headers, for `x-ratelimit-*`.
        """
        if self._over:
            return
        self._over = True
        wait = rate_limit_headers.clamp(retry_after)
        if headers:
            wait = max(wait, rate_limit_headers.wait_seconds(headers))
        self._route_limiter.end(self, Ended(outcome_kind, actual_tokens, wait, maintenance, status, detail))
