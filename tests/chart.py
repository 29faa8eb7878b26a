"""The Helm chart, rendered, linted and checked as `make lint` does it: Helm itself and Kubernetes' schemas, from wheels.

Where there is no wheel of Helm for this platform, that is said and the chart is not checked.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parent.parent / "ops" / "helm" / "stockpot"
#: The oldest Kubernetes of the chart's `kubeVersion`, and a current one.
KUBERNETES = ("1.27.0", "1.34.0")
#: What the definitions of KEDA and the Prometheus operator demand; Kubernetes' own schemas do not know them.
FOREIGN: dict[str, tuple[str, ...]] = {
    "PodMonitor": ("selector", "podMetricsEndpoints"),
    "PrometheusRule": ("groups",),
    "ScaledObject": ("scaleTargetRef", "triggers"),
    "ServiceMonitor": ("selector", "endpoints"),
    "TriggerAuthentication": ("secretTargetRef",),
}
#: Everything that can be switched on at once.
EVERYTHING: dict[str, Any] = {
    "caConfigMap": "ca",
    "settings": {"STOCKPOT_RPM": 600},
    "imagePullSecrets": [{"name": "pull"}],
    "gateway": {"ingress": {"enabled": True, "host": "llm.example.com", "className": "nginx", "tlsSecret": "tls"}},
    "networkPolicy": {
        "enabled": True,
        "gatewayFrom": [{"podSelector": {}}],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
    "grafanaDashboard": {"enabled": True},
    "keda": {"enabled": True},
}


def available() -> bool:
    """Whether Helm's wheel is installed here (requirements-dev.lock has it for Linux on x86-64)."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


def renderings() -> Iterator[tuple[str, dict[str, Any]]]:
    """Sets of values that are worth rendering, each with a name."""
    yield "the defaults", {}
    yield "production", yaml.safe_load((CHART / "values-production.yaml").read_text(encoding="utf-8"))
    yield "everything", EVERYTHING
    yield (
        "workers alone",
        {"gateway": {"enabled": False}, "migration": {"mode": "job"}, "serviceAccount": {"create": False}},
    )


def documents(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Render the chart; every manifest of it."""
    from helm_python.chart import Chart

    chart = Chart.load(str(CHART))
    rendered = chart.render(values, name="pot", namespace="llm", is_install=True)
    texts = (text for name, text in rendered.items() if name.endswith(".yaml"))
    return [one for text in texts for one in yaml.safe_load_all(text) if one]


def complaints() -> list[str]:
    """What is wrong with the chart, in words; empty when nothing is."""
    if not available():
        print("  the Helm chart was not checked: Helm's wheel exists for Linux on x86-64 only")
        return []
    import kubernetes_validate  # type: ignore[import-untyped]
    from helm_python import chart as helm

    report = helm.lint(str(CHART), strict=True)
    found = [f"helm lint: {one}" for one in report["errors"]]
    found += [f"helm lint: {one['error']}" for one in report["messages"] if one["severity"] > 1]
    for name, values in renderings():
        for document in documents(values):
            where = f"{name}: {document['kind']} {document['metadata']['name']}"
            if document["kind"] in FOREIGN:
                missing = [key for key in FOREIGN[document["kind"]] if not document["spec"].get(key)]
                found += [f"{where}: spec.{key} is missing" for key in missing]
                continue
            for version in KUBERNETES:
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    found.append(f"{where} (Kubernetes {version}): {error.message}")
    return found
