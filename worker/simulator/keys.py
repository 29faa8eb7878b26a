"""API keys with their balances, rows and charges. The clock is passed in.

A charge lands some time after its answer was delivered (`charge_lag`), as the provider's do: until then neither
the balance nor the logs nor the transactions show it, so a key can overspend a little.
"""

from __future__ import annotations

import bisect
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from worker.simulator import catalog

Status = Literal["active", "revoked", "limited"]
#: What `GET /v2/billing` shows for a key without a balance: a million dollars.
ENDLESS = 1_000_000 * catalog.CREDITS_PER_USD


@dataclass(frozen=True, slots=True)
class Row:
    """One request as `/v2/logs` and, when it was billed, `/v2/billing/transactions` show it."""

    created: float
    landed: float
    number: int
    model: str
    succeeded: bool
    credits: int
    input_tokens: int
    output_tokens: int
    request_id: str
    inference_id: str
    client_request_id: str | None


@dataclass(slots=True)
class Account:
    """A key: its balance in credits (None: endless), its status, and its rows, oldest first."""

    credits: int | None = None
    status: Status = "active"
    rows: deque[Row] = field(default_factory=deque)
    _landing: list[Row] = field(default_factory=list)

    def add(self, row: Row, now: float) -> None:
        """Note a finished call; its row lands at `row.landed`."""
        self.settle(now)
        bisect.insort(self._landing, row, key=lambda pending: pending.landed)

    def settle(self, now: float) -> None:
        """Let land what is due: rows become visible and their credits leave the balance."""
        due = bisect.bisect_right(self._landing, now, key=lambda pending: pending.landed)
        for row in self._landing[:due]:
            self.rows.append(row)
            if self.credits is not None:
                self.credits -= row.credits
        if due:
            del self._landing[:due]

    def spent(self, now: float) -> bool:
        """Whether the balance is used up."""
        self.settle(now)
        return self.credits is not None and self.credits <= 0

    def balance(self, now: float) -> int:
        """The balance in credits, never below zero."""
        self.settle(now)
        return ENDLESS if self.credits is None else max(0, self.credits)


class Keys:
    """All keys that the simulator has seen or was given."""

    def __init__(self, *, history: int) -> None:
        self._history = history
        self._accounts: dict[str, Account] = {}

    def account(self, key: str, *, accept_any: bool) -> Account | None:
        """The account of a key; None when the key is bad."""
        account = self._accounts.get(key)
        if account is None:
            if not key or not accept_any:
                return None
            account = self.configure(key)
        return None if account.status == "revoked" else account

    def configure(self, key: str) -> Account:
        """The account of a key, made when it is new, whatever its status."""
        if key not in self._accounts:
            self._accounts[key] = Account(rows=deque(maxlen=self._history))
        return self._accounts[key]
