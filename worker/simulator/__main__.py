"""`python -m worker.simulator`: prints `{"url": ...}` on one line when it is ready."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import click

from worker.simulator.config import SimulatorConfig
from worker.simulator.process import serve


def _announce(url: str) -> None:
    click.echo(json.dumps({"url": url}))


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=0, show_default=True, help="0 takes a free port.")
@click.option("--journal", type=click.Path(path_type=Path), help="Append the journal to this file.")
@click.option("--no-fsync", is_flag=True, help="Do not wait for the disk at each journal line.")
@click.option("--instant", is_flag=True, help="No delays.")
@click.option("--config", default="{}", help="More settings, as a JSON object.")
def main(host: str, port: int, journal: Path | None, config: str, *, no_fsync: bool, instant: bool) -> None:
    """Run the upstream simulator until SIGTERM or SIGINT."""
    given: dict[str, Any] = json.loads(config)
    if instant:
        given = {"first_token_delay": 0, "token_delay": 0, **given}
    settings = SimulatorConfig.model_validate({"journal": journal, "journal_fsync": not no_fsync, **given})
    asyncio.run(serve(settings, host=host, port=port, ready=_announce))


if __name__ == "__main__":
    main()
