"""One thread per job with the OpenAI SDK's synchronous client: the shortest code that streams many at once."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai

from ops.bench import wire
from ops.bench.peers.speaking import listen, say

#: 1,000 threads at the usual 8 MiB of stack are no trouble; a small stack keeps the address space readable.
_STACK = 512 * 1024


def one(client: openai.OpenAI, body: dict[str, Any]) -> int:
    """Make one call and read it to its end. Returns the length of its text."""
    if not body.get("stream"):
        whole = client.chat.completions.create(**body)
        return len(whole.choices[0].message.content or "")
    chunks = client.chat.completions.create(**body)
    return len("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices))


def run(client: openai.OpenAI, question: dict[str, Any]) -> dict[str, int]:
    """Do `jobs` jobs on `in_flight` threads."""
    bodies = (
        wire.request_body(number, model=question["model"], stream=question["stream"])
        for number in range(question["first"], question["first"] + question["jobs"])
    )
    with ThreadPoolExecutor(question["in_flight"]) as pool:
        lengths = list(pool.map(lambda body: one(client, body), bodies))
    return {"done": len(lengths), "characters": sum(lengths)}


def main(base_url: str) -> None:
    """Ready, then one run per question."""
    threading.stack_size(_STACK)
    client = openai.OpenAI(base_url=base_url, api_key="bench")
    say(ready=True)
    while (question := listen()) is not None:
        say(**run(client, question))


if __name__ == "__main__":
    main(sys.argv[1])
