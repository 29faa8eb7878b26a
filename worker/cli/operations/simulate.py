"""`stockpot simulate`: the upstream simulator by itself, in the foreground."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from worker.cli import options
from worker.cli.output import put, put_json, say
from worker.simulator.config import SimulatorConfig
from worker.simulator.process import serve


@click.command(
    epilog="""\b
Example:
  stockpot simulate --port 8100
  STOCKPOT_UPSTREAM_URL=http://127.0.0.1:8100/v1 STOCKPOT_API_KEY=any stockpot up
"""
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65_535), default=0, show_default=True, help="0 takes a free port.")
@click.option("--journal", type=click.Path(path_type=Path, dir_okay=False), help="Append every call to this file.")
@click.option("--instant", is_flag=True, help="Answer without delays.")
@options.as_json
def simulate(host: str, port: int, journal: Path | None, *, instant: bool, as_json: bool) -> None:
    """Run a provider on this machine that answers, streams, charges, limits and breaks; Ctrl-C ends it.

    docs/simulator.md describes what it can do. Prints its address (with --json as {"url"}) once it listens.
    """
    delays = {"first_token_delay": 0, "token_delay": 0} if instant else {}
    config = SimulatorConfig.model_validate({"journal": journal, **delays})

    def ready(url: str) -> None:
        put_json({"url": url}) if as_json else put(url)
        say(f"Point workers at it: STOCKPOT_UPSTREAM_URL={url}/v1 STOCKPOT_API_KEY=any stockpot up")

    try:
        asyncio.run(serve(config, host=host, port=port, ready=ready))
    except OSError as error:
        raise click.UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
