"""The demo: real jobs through the real parts on this machine, then what the database has of them.

    a streamed job  →  five in parallel  →  one over HTTP  →  a batch file  →  a signed webhook  →  a kill -9  →  the bill

It exits 0 only if every job completed and the webhook was verified. Ctrl-C stops everything it started.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import time
import urllib.request
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.table import Table

from api_schemas import jsontext
from api_schemas.jobs import JobDetail
from worker import Stockpot
from worker.base.wrapping import Wrapper
from worker.local.parallel import follow_all
from worker.local.stage import Stage, stage
from worker.local.words import broken_command, clock, one_line, printable, program, usd

MODEL = "openai/gpt-5-1-chat-latest"
#: A bulk that costs nothing may be larger than one that costs a few cents.
BULK_SIMULATED, BULK_REAL = 60, 20
#: Tokens of an answer at most, so that a run against the real API stays cheap and short.
LENGTH = 60
#: How long the batch and the webhook may take, in seconds; the simulator needs two.
PATIENCE_SECONDS = 300.0
WEBHOOK_SECONDS = 60.0
#: Width of the bill without its answers, in characters.
OTHER_COLUMNS = 62
INTERRUPTED = 130

#: Pieces of an answer that are seen before its worker is killed.
PIECES_BEFORE_THE_KILL = 10

_NEXT = (
    ("up --simulate", "everything for development, in a terminal of its own (with a key: up)"),
    (f'submit -m {MODEL} --stream "Why does a stock simmer?"', "tokens as they come"),
    ("batch quote prompts.jsonl", "what a file in OpenAI's batch format would cost"),
    ("--help", "everything else"),
)

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
    if code == 0:
        next_steps(console)
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
        killed = _killed(console, pot, up)
        # Everything below is read back from the database.
        kinds = {
            "streamed": jobs[:1],
            "parallel": jobs[1:],
            "HTTP": over_http,
            "batch file": bulk,
            "webhook": [called_back],
            "kill -9": [killed],
        }
        details = {kind: [pot.get(one) for one in ids] for kind, ids in kinds.items() if ids}
        _bill(console, details)
    all_well = verified and all(one.status == "completed" for kind in details.values() for one in kind)
    return 0 if all_well else 1


def _tell(console: Console, up: Stage, seconds: float) -> None:
    if up.simulated:
        console.print(
            f"  upstream  the bundled simulator at {up.settings.upstream_url}, since AIMLAPI_API_KEY is not set"
        )
    else:
        console.print(f"  upstream  {up.settings.upstream_url} with your key: the real API, for a few cents")
    home = "a temporary one" if up.temporary else str(up.settings.home)
    console.print(f"  home      {home}, with SQLite and an embedded Valkey")
    console.print(f"  ready after {clock(seconds)}")


def _width(console: Console) -> int:
    """Where lines break, in cells; 0, nowhere: what is no terminal gets them whole."""
    return console.width if console.is_terminal else 0


def _wrapped(console: Console, text: str) -> None:
    wrapper = Wrapper(_width(console))
    console.print(wrapper.feed(text) + wrapper.end(), soft_wrap=True)


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
    wrapper = Wrapper(_width(console))
    for event in pot.events(job.id):
        if event["type"] == "attempt.reset":
            console.print(f"{wrapper.end()}\n(a new attempt begins)", soft_wrap=True)
        if text := event.get("text"):
            first = first if first is not None else time.monotonic() - submitted
            pieces += 1
            console.print(wrapper.feed(printable(text)), end="", soft_wrap=True)
            console.file.flush()
    console.print(wrapper.end(), soft_wrap=True)
    waited = "no token came" if first is None else f"the first text after {clock(first)}, then {pieces} live events"
    console.print(f"{job.id}: {waited}")
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
    _wrapped(console, printable(done["choices"][0]["message"]["content"]))
    _wrapped(console, f"{job}: {done['id']}, {done['usage']['total_tokens']} tokens, ${cost or '?'}")
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
    command = ["batch", "submit", source.name, "--wait"]
    console.print(f"$ stockpot {' '.join(command)}", soft_wrap=True)
    console.file.flush()
    program = [sys.executable, "-P", "-c", "from worker.cli import main; main()"]
    # A key of payloads, a proxy, certificates: what the worker has of the shell's environment this command has too.
    env = {**os.environ, **up.variables}  # noqa: TID251 -- handed on, not read
    subprocess.run([*program, *command], env=env, cwd=source.parent, timeout=PATIENCE_SECONDS, check=False)
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


def _killed(console: Console, pot: Stockpot, up: Stage) -> str:
    """A worker is killed in mid-stream, and another one goes on; what the dead one's call cost is looked up."""
    _title(console, "kill -9 in the middle of an answer")
    job = pot.submit(_request("Why does a stock keep?", stream=True))
    pieces, killed_at = 0, 0.0
    for event in pot.events(job.id):
        pieces += event["type"] == "chunk"
        if pieces == PIECES_BEFORE_THE_KILL and not killed_at:
            killed_at = time.monotonic()
            console.print(f"{pieces} pieces came; worker {up.kill_worker()} is killed, another one starts")
        elif event["type"] == "attempt.reset":
            console.print(f"{clock(time.monotonic() - killed_at)} later: a new attempt begins, readers see it begin")
    done = pot.get(job.id)
    console.print(f"{job.id}: {done.status} in attempt {len(done.attempt_log)}, nothing is lost")
    return job.id


def _bill(console: Console, details: dict[str, list[JobDetail]]) -> None:
    """What every call cost, as the ledger has it, also those whose worker died."""
    _title(console, "The bill, from the database")
    table = Table(box=None, pad_edge=False, show_footer=True)
    everything = [job for jobs in details.values() for job in jobs]
    jobs, calls, tokens_in, tokens_out, cost = _sums(everything)
    # The answer alone gives way on a narrow terminal.
    room = max(8, console.width - OTHER_COLUMNS)
    table.add_column("how", footer="in all", min_width=10)
    table.add_column("jobs", justify="right", footer=f"{jobs:,}", min_width=4)
    table.add_column("calls", justify="right", footer=f"{calls:,}", min_width=5)
    table.add_column("in", justify="right", footer=f"{tokens_in:,}", min_width=5)
    table.add_column("out", justify="right", footer=f"{tokens_out:,}", min_width=5)
    table.add_column("cost", justify="right", footer=usd(cost), min_width=9)
    table.add_column("an answer", no_wrap=True, overflow="ellipsis", max_width=min(room, 60))
    for kind, of_kind in details.items():
        *counts, spent = _sums(of_kind)
        bad = next((job for job in of_kind if job.status != "completed"), None)
        shown = bad or of_kind[-1]
        words = shown.text or (shown.error.message if shown.error else "")
        last = one_line(f"{shown.status}: {words}" if bad else words)
        table.add_row(kind, *(f"{count:,}" for count in counts), usd(spent), last)
    console.print(table)


def _sums(jobs: list[JobDetail]) -> tuple[int, int, int, int, Decimal]:
    """Jobs, calls, tokens in and out, cost: of every attempt."""
    calls = [call for job in jobs for call in job.attempt_log]
    return (
        len(jobs),
        len(calls),
        sum(call.input_tokens or 0 for call in calls),
        sum(call.output_tokens or 0 for call in calls),
        sum((call.cost_usd or Decimal(0) for call in calls), Decimal(0)),
    )


def next_steps(console: Console) -> None:
    """What to type next, as it works from here."""
    begins = program()
    for command, what in _NEXT:
        _wrapped(console, f"# {what}")
        line = f"{begins} {command}"
        console.print(broken_command(line, _width(console)) if console.is_terminal else line, soft_wrap=True)
