"""The field's names for what a call of a model is: OpenTelemetry's, in the one place that spells them."""

from __future__ import annotations

import functools
from urllib.parse import urlsplit

#: Of chat completions and responses alike.
OPERATION = "chat"

#: Providers that have a name of their own, by the end of their host's name.
_PROVIDERS = {
    "api.openai.com": "openai",
    ".openai.azure.com": "azure.ai.openai",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "api.mistral.ai": "mistral_ai",
    "api.groq.com": "groq",
    "api.deepseek.com": "deepseek",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
    "api.cohere.com": "cohere",
    "aimlapi.com": "aimlapi",
}


@functools.lru_cache(maxsize=16)
def provider(upstream_url: str) -> str:
    """`gen_ai.provider.name` of an upstream: a known name, else its host's."""
    host = urlsplit(upstream_url).hostname or "unknown"
    return next((name for end, name in _PROVIDERS.items() if host.endswith(end)), host)
