"""The rate headers of a key that has limits, as OpenAI spells them."""

from __future__ import annotations

from worker.producer.calls import Standing


def rate_headers(standing: Standing) -> dict[str, str]:
    """The rate headers of a key that has limits."""
    headers: dict[str, str] = {}
    if standing.rpm is not None:
        headers |= {
            "x-ratelimit-limit-requests": str(standing.rpm),
            "x-ratelimit-remaining-requests": str(standing.requests_left),
            "x-ratelimit-reset-requests": duration(standing.requests_reset),
        }
    if standing.tpm is not None:
        headers |= {
            "x-ratelimit-limit-tokens": str(standing.tpm),
            "x-ratelimit-remaining-tokens": str(standing.tokens_left),
            "x-ratelimit-reset-tokens": duration(standing.tokens_reset),
        }
    return headers


def duration(seconds: float) -> str:
    """A duration as OpenAI's headers spell it: `12ms`, `4.5s`, `1m0s`."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))}ms"
    if seconds < 60:
        return f"{seconds:.3g}s"
    return f"{int(seconds // 60)}m{int(seconds % 60)}s"
