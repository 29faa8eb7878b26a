"""`docs/metrics.md` and `worker/base/metrics.py` say the same."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from worker.base import metrics

DOCS = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")


def registered() -> dict[str, tuple[str, set[str], str]]:
    """Type, labels and meaning of every metric, by name."""
    found = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]
    return {one._name: (str(one._type), set(one._labelnames), one._documentation) for one in found}


def documented() -> dict[str, tuple[str, set[str], str]]:
    """The same, as the table has it."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", DOCS, re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels)), meaning) for name, kind, labels, meaning in rows}


def test_the_table_of_metrics_is_the_registry() -> None:
    """Names, types, labels and meanings."""
    assert documented() == registered()


def test_every_metric_is_in_the_registry_that_is_served() -> None:
    """A metric outside it would be documented and never seen."""
    served = {family.name for family in metrics.REGISTRY.collect()}
    assert served == set(registered())


def test_every_metric_has_our_prefix_or_the_fields_and_no_label_that_names_a_job() -> None:
    """A label with a value per job would cost a time series per job."""
    for name, (_, labels, _) in registered().items():
        assert name.startswith(("stockpot_", "gen_ai_client_"))
        assert not labels & {"job", "job_id", "tenant", "key", "batch", "url", "endpoint_id"}
