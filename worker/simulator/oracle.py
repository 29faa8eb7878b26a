"""What the simulator will answer and charge, for tests to compare with what a client stored.

    text = expected_text("/v1/chat/completions", body)

`script` is a script or one of its steps; of a script with several steps the last one counts, since it is the one
that ends the job. Without it the script that the body itself carries is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from api_schemas.usage import Usage
from worker.simulator import catalog
from worker.simulator.generation import Generation, generate
from worker.simulator.script import Step, last_prompt, parse, script_of

DEFAULT_TOKENS = 40


def expected(body: Mapping[str, Any], script: str | Step | None = None, *, tokens: int = DEFAULT_TOKENS) -> Generation:
    """The whole answer: choices, tool calls, refusals, reasoning, tokens, credits.

    `tokens` is the simulator's configured length of an answer.

    Raises:
        UnknownStep: the script cannot be read.
    """
    if not isinstance(script, Step):
        given = script if script is not None else script_of(body.get("model"), last_prompt(body))
        script = parse(given or "ok")[-1]
    return generate(body, script, tokens)


def expected_text(
    endpoint: str, body: Mapping[str, Any], script: str | Step | None = None, *, tokens: int = DEFAULT_TOKENS
) -> str:
    """The visible text of all choices, joined. Both endpoints give the same; `endpoint` is there for the reader."""
    del endpoint
    return "".join(choice.text for choice in expected(body, script, tokens=tokens).choices)


def expected_usage(
    endpoint: str, body: Mapping[str, Any], script: str | Step | None = None, *, tokens: int = DEFAULT_TOKENS
) -> Usage:
    """The token counts that the answer reports."""
    del endpoint
    answer = expected(body, script, tokens=tokens)
    return Usage(
        input_tokens=answer.input_tokens,
        output_tokens=answer.output_tokens,
        reasoning_tokens=answer.reasoning_tokens,
        total_tokens=answer.total_tokens,
    )


def expected_cost_usd(
    endpoint: str, body: Mapping[str, Any], script: str | Step | None = None, *, tokens: int = DEFAULT_TOKENS
) -> Decimal:
    """The charge in USD, exactly as `usd_spent` has it."""
    del endpoint
    return catalog.usd(expected(body, script, tokens=tokens).credits)
