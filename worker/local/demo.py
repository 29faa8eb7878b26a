"""The demo: real jobs through the real parts on this machine, then what the database says about them.

    a streamed job, token by token  →  five in parallel  →  one over HTTP  →  a batch file of sixty lines  →  one webhook  →  answers, tokens, cost

It exits 0 only if every job completed and the webhook was verified. Ctrl-C stops everything it started.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.table import Table

from api_schemas import jsontext
from api_schemas.jobs import JobDetail
from worker import Stockpot
from worker.local.parallel import follow_all
from worker.local.stage import Stage, stage
from worker.local.words import clock, one_line, printable, usd

MODEL = "openai/gpt-5-1-chat-latest"
#: A bulk that costs nothing may be larger than one that costs a few cents.
BULK_SIMULATED, BULK_REAL = 60, 20
#: Tokens of an answer at most, so that a run against the real API stays cheap and short.
LENGTH = 60
#: How long the batch and the webhook may take, in seconds; the simulator needs two.
PATIENCE_SECONDS = 300.0
WEBHOOK_SECONDS = 60.0
#: Width of the result table without its answers, in characters.
OTHER_COLUMNS = 58
INTERRUPTED = 130

QUESTIONS = {
    "broth": "Why does a stock simmer instead of boil?",
    "umami": "What makes kombu taste of umami?",
    "roux": "When is a roux done?",
    "salt": "When should a soup be salted?",
    "ladle": "What is a ladle for?",
}


def run(console: Console) -> int:
    """Run the demo; the exit code: 0 if all went well, 1 if a job or the webhook failed, 130 after Ctrl-C.

    Raises:
        SettingsError, Unreachable: something of ours is configured wrongly, or does not start.
    """
    before = signal.signal(signal.SIGTERM, _interrupt)
    started = time.monotonic()
    try:
        code = _demo(console, started)
    except KeyboardInterrupt:
        console.print("\nInterrupted; everything the demo started is stopped.")
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    console.print(f"\nNothing is left running. {clock(time.monotonic() - started)} in all.")
    return code


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _demo(console: Console, started: float) -> int:
    console.print("Starting Valkey, a database, an upstream and one worker …")
    with stage() as up, Stockpot(up.settings) as pot:
        _tell(console, up, time.monotonic() - started)
        jobs = [_streamed(console, pot), *_parallel(console, pot)]
        over_http = [_over_http(console, up.gateway_url)] if up.gateway_url is not None else []
        bulk = _bulk(console, pot, up, BULK_SIMULATED if up.simulated else BULK_REAL)
        called_back, verified = _called_back(console, pot, up)
        # Everything below is read back from the database.
        details = {kind: [pot.get(one) for one in ids] for kind, ids in _kinds(jobs, over_http, bulk, called_back)}
        _table(console, details)
    all_well = verified and all(one.status == "completed" for kind in details.values() for one in kind)
    return 0 if all_well else 1


def _kinds(jobs: list[str], over_http: list[str], bulk: list[str], called_back: str) -> Iterable[tuple[str, list[str]]]:
    yield "streamed", jobs[:1]
    yield "parallel", jobs[1:]
    yield "HTTP", over_http
    yield "webhook", [called_back]
    yield "bulk", bulk


def _tell(console: Console, up: Stage, seconds: float) -> None:
    if up.simulated:
        console.print(
            f"  upstream  the bundled simulator at {up.settings.upstream_url}, since AIMLAPI_API_KEY is not set"
        )
    else:
        console.print(f"  upstream  {up.settings.upstream_url} with your key: the real API, for a few cents")
    kept = " (removed afterwards)" if up.temporary else ""
    console.print(f"  home      {up.settings.home}{kept}: SQLite and an embedded Valkey")
    console.print(f"  ready after {clock(seconds)}")


def _title(console: Console, text: str) -> None:
    console.print(f"\n── {text} ──", style="bold")


def _request(question: str, *, stream: bool = False) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"model": MODEL, "messages": messages, "stream": stream, "max_completion_tokens": LENGTH}


def _streamed(console: Console, pot: Stockpot) -> str:
    """One job, shown token by token as Redis publishes it."""
    _title(console, "One job, streamed live")
    submitted = time.monotonic()
    job = pot.submit(_request("How is a good stock made?", stream=True))
    first: float | None = None
    pieces = 0
    for event in pot.events(job.id):
        if event["type"] == "attempt.reset":
            console.print("\n(a new attempt begins)")
        if text := event.get("text"):
            first = first if first is not None else time.monotonic() - submitted
            pieces += 1
            console.print(printable(text), end="", soft_wrap=True)
            console.file.flush()
    waited = "no token came" if first is None else f"the first text after {clock(first)}, then {pieces} live events"
    console.print(f"\n{job.id}: {waited}")
    return job.id


def _parallel(console: Console, pot: Stockpot) -> list[str]:
    """Five jobs at once."""
    _title(console, f"{len(QUESTIONS)} jobs in parallel")
    jobs = {pot.submit(_request(question, stream=True)).id: name for name, question in QUESTIONS.items()}
    follow_all(console, pot, jobs)
    return list(jobs)


def _over_http(console: Console, base_url: str) -> str:
    """One call over OpenAI's wire, with nothing but the standard library; the job that answered it."""
    _title(console, "One call over HTTP, as any OpenAI SDK makes it")
    console.print(f'OpenAI(base_url="{base_url}").chat.completions.create(…)', soft_wrap=True)
    asked = jsontext.dumps(_request("What is dashi?"))
    request = urllib.request.Request(  # noqa: S310 -- our own gateway, on loopback
        f"{base_url}/chat/completions", asked, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310
        done = jsontext.loads(answer.read())
        job, cost = answer.headers["stockpot-job-id"], answer.headers.get("stockpot-cost-usd")
    console.print(printable(done["choices"][0]["message"]["content"]), soft_wrap=True)
    console.print(f"{job}: {done['id']}, {done['usage']['total_tokens']} tokens, ${cost or '?'}", soft_wrap=True)
    return str(job)


def _bulk(console: Console, pot: Stockpot, up: Stage, size: int) -> list[str]:
    """A batch file in OpenAI's format, run by the very command that a user would type; the ids of its lines."""
    _title(console, f"A batch file of {size} lines")
    source = up.settings.home / "prompts.jsonl"
    with source.open("wb") as lines:
        for number in range(1, size + 1):
            body = _request(f"Describe soup number {number} in one line.")
            line = {"custom_id": f"soup-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            lines.write(jsontext.dumps(line) + b"\n")
    output = up.settings.home / "answers.jsonl"
    command = ["batch", "submit", str(source), "--wait", "--output", str(output)]
    console.print(f"$ stockpot {' '.join(command)}", soft_wrap=True)
    console.file.flush()
    program = [sys.executable, "-c", "from worker.cli import main; main()"]
    subprocess.run([*program, *command], env=up.variables, timeout=PATIENCE_SECONDS, check=False)
    return [job.id for job in reversed(pot.list(lane="bulk", limit=size))]


def _called_back(console: Console, pot: Stockpot, up: Stage) -> tuple[str, bool]:
    """One job whose result comes as a signed webhook; the job, and whether a verified event named it."""
    _title(console, "One job, called back")
    job = pot.submit(_request("Name three soups."), webhook=up.webhook_url, metadata={"order": "17"})
    deadline = time.monotonic() + WEBHOOK_SECONDS
    with contextlib.suppress(queue.Empty):
        while True:
            came = up.received.get(timeout=max(0.0, deadline - time.monotonic()))
            if came.event is None:
                console.print(f"a webhook was refused: {came.problem}")
            elif came.event["data"].get("id") == job.id:
                console.print(f"POST {up.webhook_url}  {came.event['type']} of {job.id}")
                console.print(f"signature verified, {came.webhook_id}, metadata {came.event['data'].get('metadata')}")
                return job.id, True
    console.print(f"no verified webhook came within {WEBHOOK_SECONDS:.0f} s")
    return job.id, False


def _table(console: Console, details: dict[str, list[JobDetail]]) -> None:
    """Every job's answer, tokens and cost, and their sums."""
    _title(console, "What the database says")
    table = Table(box=None, pad_edge=False, show_footer=True)
    everything = [job for jobs in details.values() for job in jobs]
    tokens_in = sum(job.usage.input_tokens for job in everything if job.usage)
    tokens_out = sum(job.usage.output_tokens for job in everything if job.usage)
    cost = sum((job.cost_usd or Decimal(0) for job in everything), Decimal(0))
    # The answer alone gives way on a narrow terminal.
    room = max(8, console.width - OTHER_COLUMNS)
    table.add_column("job", footer=f"{len(everything)} jobs", min_width=9)
    table.add_column("how", min_width=8)
    table.add_column("status", min_width=9)
    table.add_column("answer", no_wrap=True, overflow="ellipsis", max_width=min(room, 60))
    table.add_column("in", justify="right", footer=f"{tokens_in:,}", min_width=5)
    table.add_column("out", justify="right", footer=f"{tokens_out:,}", min_width=5)
    table.add_column("cost", justify="right", footer=usd(cost), min_width=9)
    for kind, jobs in details.items():
        for job in jobs:
            counts = (f"{job.usage.input_tokens:,}", f"{job.usage.output_tokens:,}") if job.usage else ("–", "–")
            said = job.text or (job.error.message if job.error else "")
            table.add_row(f"…{job.id[-8:]}", kind, job.status, one_line(said), *counts, usd(job.cost_usd))
    console.print(table)
