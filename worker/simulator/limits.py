"""The simulated rate limits: requests and tokens a window, calls in flight. Pure but for its own counters.

Windows slide. Everything is counted per (key, model), the way the product's routes are. The clock is passed in.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

Route = tuple[str, str]


class Window:
    """Amounts of the last `seconds`, and their sum."""

    def __init__(self) -> None:
        self._amounts: deque[tuple[float, int]] = deque()
        self.total = 0

    def add(self, now: float, amount: int) -> None:
        """Count an amount."""
        self._amounts.append((now, amount))
        self.total += amount

    def since(self, start: float) -> int:
        """The sum of what was counted after `start`; older amounts are forgotten."""
        while self._amounts and self._amounts[0][0] <= start:
            self.total -= self._amounts.popleft()[1]
        return self.total


@dataclass(slots=True)
class _Traffic:
    requests: Window = field(default_factory=Window)
    tokens: Window = field(default_factory=Window)
    in_flight: int = 0


class Limits:
    """Who may call now. `refusal` asks, `enter` and `leave` bracket a call that was let in."""

    def __init__(self) -> None:
        self._traffic: dict[Route, _Traffic] = {}
        self._logs: dict[str, Window] = {}

    def refusal(
        self, route: Route, now: float, *, rpm: int | None, tpm: int | None, capacity: int | None, window: float
    ) -> str | None:
        """Which limit a call would break: `concurrency`, `requests` or `tokens`; None when it may go."""
        traffic = self._traffic.setdefault(route, _Traffic())
        if capacity is not None and traffic.in_flight >= capacity:
            return "concurrency"
        if rpm is not None and traffic.requests.since(now - window) >= rpm:
            return "requests"
        if tpm is not None and traffic.tokens.since(now - window) >= tpm:
            return "tokens"
        return None

    def enter(self, route: Route, now: float, *, counted: bool) -> None:
        """A call begins; `counted` when there is an rpm that its request counts against."""
        traffic = self._traffic.setdefault(route, _Traffic())
        traffic.in_flight += 1
        if counted:
            traffic.requests.add(now, 1)

    def leave(self, route: Route, now: float, *, tokens: int) -> None:
        """A call ended; its tokens count from now on (0: there is no tpm, or no usage is known)."""
        traffic = self._traffic[route]
        traffic.in_flight -= 1
        if tokens:
            traffic.tokens.add(now, tokens)

    def logs_allowed(self, key: str, now: float, *, rpm: int) -> bool:
        """Whether one more request to the logs fits; counts it when it does."""
        window = self._logs.setdefault(key, Window())
        if window.since(now - 60) >= rpm:
            return False
        window.add(now, 1)
        return True
