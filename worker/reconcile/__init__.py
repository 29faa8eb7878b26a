"""The provider's books against our ledger.

compare  What the provider's log has of an attempt
walk     The walk through the provider's books
"""

from __future__ import annotations

from worker.provider.log import NoCharges, NoLog, ProviderCharges, ProviderLog
from worker.reconcile.compare import look_up
from worker.reconcile.walk import walk

__all__ = ["NoCharges", "NoLog", "ProviderCharges", "ProviderLog", "look_up", "walk"]
