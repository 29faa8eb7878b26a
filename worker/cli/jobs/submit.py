"""`stockpot submit`: one request from the command line, a file or stdin."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import click

from api_schemas.bodies import ENDPOINTS, body_for
from api_schemas.jobs import LANES, parse_document
from worker.base.errors import WaitTimeout
from worker.base.settings import load
from worker.cli import options
from worker.cli.interrupts import noting
from worker.cli.jobs.following import Follower, exit_code
from worker.cli.opening import producer
from worker.cli.output import put, put_json, say
from worker.cli.webhooks import reach


@click.command(
    epilog="""\b
Examples:
  stockpot submit -m openai/gpt-5-1-chat-latest "Why is the sky blue?"          prints the job's id
  stockpot submit -m openai/gpt-5-1-chat-latest --stream "Why is the sky blue?"  tokens as they come
  stockpot submit --request body.json --wait --json | jq -r .text
  git diff | stockpot submit -m openai/gpt-5-1-chat-latest - --wait
  stockpot submit --request - --idempotency-key order-17 --webhook https://example.com/hook < body.json
"""
)
@click.argument("prompt", required=False)
@click.option("-m", "--model", metavar="MODEL", help="The model; wins over the one in --request.")
@click.option(
    "--request",
    "request_file",
    type=click.File("rb"),
    metavar="FILE",
    help="A request body as JSON, or a whole JobRequest (it has a `body`); - is stdin.",
)
@click.option("--endpoint", type=click.Choice(ENDPOINTS), help="Inferred from the body when left out.")
@click.option("--stream", is_flag=True, help="Ask the upstream for a stream, and follow it live.")
@click.option("--wait", is_flag=True, help="Wait for the answer and print it.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Stop waiting after S seconds."
)
@click.option("--idempotency-key", metavar="K", help="Submitting again with the same key and body is the same job.")
@click.option("--webhook", metavar="URL", help="Where to send the signed result.")
@click.option("--lane", type=click.Choice(LANES), help="Interactive work never waits behind bulk.")
@options.tenant
@click.option("--delay", "delay_seconds", type=float, metavar="S", help="Start in S seconds.")
@click.option("--metadata", type=options.Pairs(), multiple=True, metavar="K=V", help="Yours to keep; repeatable.")
@options.as_json
def submit(
    prompt: str | None,
    model: str | None,
    request_file: BinaryIO | None,
    tenant: str,
    metadata: tuple[tuple[str, str], ...],
    timeout: float | None,
    *,
    stream: bool,
    wait: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Submit one request: PROMPT (- reads it from stdin), or --request FILE.

    Prints the job's id. With --stream or --wait it follows the job to its end and exits 1 if it failed. With --json
    it prints {"id", "status"}, or with --wait the whole job as `show --json` does.
    """
    follows = wait or (stream and not as_json)
    if timeout is not None and not follows:
        raise click.UsageError("--timeout needs --wait (or --stream, without --json).")
    request = _request(prompt, model, request_file, given["endpoint"], stream=stream)
    wanted = {name: value for name, value in given.items() if value is not None}
    if metadata:
        wanted["metadata"] = dict(metadata)
    if tenant == "default" and isinstance(request.get("tenant"), str) and "body" in request:
        tenant = request["tenant"]
    with producer(tenant) as pot:
        done = pot.submit(request, **wanted, tenant=tenant)
        if not done.created:
            say(f"{done.id} was submitted before with this idempotency key; it is {done.status}.")
        if not follows:
            with _not_lost(done.id):
                put_json({"id": done.id, "status": done.status}) if as_json else put(done.id)
            _warn(given["webhook"])
            return
        follower = Follower(tenant, done.id, live=stream, quiet=as_json)
        try:
            with noting(f"The job goes on. Watch it again: {follower.again()}"):
                say(done.id, dim=True)
                _warn(given["webhook"])
                detail = follower.follow(timeout)
        except WaitTimeout:
            if as_json:
                put_json(pot.get(done.id).to_json())
            raise
    if as_json:
        put_json(detail.to_json())
    click.get_current_context().exit(exit_code(detail))


@contextlib.contextmanager
def _not_lost(job: str) -> Iterator[None]:
    """The id goes to stderr where stdout does not take it: without it the job would be submitted, and paid for, once more."""
    try:
        yield
    except OSError:
        say(f"{job} is submitted.")
        raise


def _warn(webhook: str | None) -> None:
    if webhook is not None:
        reach.warn(webhook)


def _request(
    prompt: str | None, model: str | None, request_file: BinaryIO | None, endpoint: str | None, *, stream: bool
) -> dict[str, Any]:
    """The request as it is submitted, from one of its two sources."""
    if (prompt is None) == (request_file is None):
        raise click.UsageError("Give a PROMPT, or --request FILE (one of them).")
    if request_file is not None:
        request = parse_document(request_file.read(), max_bytes=load().max_request_bytes)
        body = request.get("body", request)
        if isinstance(body, dict):
            body |= {"model": model} if model is not None else {}
            body |= {"stream": True} if stream else {}
        return request
    if model is None:
        raise click.UsageError("Give the model: -m MODEL, e.g. -m openai/gpt-5-1-chat-latest.")
    text = sys.stdin.buffer.read().decode("utf-8", "replace") if prompt == "-" else prompt
    return {"model": model, **body_for(endpoint, str(text)), **({"stream": True} if stream else {})}
