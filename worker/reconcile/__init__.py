"""The provider's books against our ledger.

books      its log (by client request id) and its transactions (by inference id), page by page, each at its own pace
compare    what they say of an attempt; and the quick look into the log before a broken call is repeated
walk       all attempts that have no final mark, resumable: `stockpot reconcile`
"""

from __future__ import annotations

from worker.reconcile.books import ChargeBook, LogBook, NoCharges, NoLog
from worker.reconcile.compare import look_up
from worker.reconcile.walk import walk

__all__ = ["ChargeBook", "LogBook", "NoCharges", "NoLog", "look_up", "walk"]
