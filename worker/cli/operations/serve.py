"""`stockpot serve`: the HTTP gateway."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import click

from worker import embedded
from worker.base import ports, telemetry
from worker.base.settings import Settings, load
from worker.cli.output import put, say
from worker.db.ready import ensure_schema
from worker.local.supervise import Child, Supervisor, stopping


@click.command(
    epilog="""\b
Examples:
  stockpot serve                          then: OpenAI(base_url="http://127.0.0.1:8484/v1", api_key="any")
  stockpot keys create --tenant acme      and a key is needed from then on
  stockpot serve --host 0.0.0.0 --processes 4
"""
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Where to listen; beyond this machine keys are needed."
)
@click.option("--port", type=click.IntRange(0, 65_535), help="STOCKPOT_GATEWAY_PORT by default; 0 takes a free one.")
@click.option(
    "--processes", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N", help="One per core."
)
def serve(host: str, port: int | None, processes: int) -> None:
    """Serve OpenAI's wire over HTTP, in the foreground; Ctrl-C stops it, and the jobs go on.

    It prints where it listens. Workers are started on their own (`stockpot up` starts everything).
    """
    from worker.gateway import serving  # its framework comes with the extra `gateway`

    settings = load()
    port = settings.gateway_port if port is None else port
    ensure_schema(settings)
    serving.check(settings, host)
    try:
        if processes > 1:
            # Processes that ask to share a port are let in beside each other, those of another home, too: it must be free first.
            serving.listen(host, port).close()
        sock = serving.listen(host, port, shared=processes > 1)
    except OSError as error:
        raise ports.taken("STOCKPOT_GATEWAY_PORT, --port", host, port, error) from None
    with contextlib.ExitStack() as stack:
        stack.callback(sock.close)
        if settings.redis_url is None:
            stack.enter_context(embedded.lease(settings.home))
        url = serving.address_of(sock)
        if processes == 1:
            telemetry.configure(settings)
            serving.serve(settings, sock, lambda: _listening(settings, url))
            return
        supervisor = stack.enter_context(Supervisor(_write_line, drain=timedelta(seconds=settings.drain_seconds)))
        port = sock.getsockname()[1]
        children = [
            Child(f"gateway-{number}", serving.command(host, port, shared=True), awaited=serving.READY)
            for number in range(1, processes + 1)
        ]
        stack.enter_context(stopping(supervisor, children))
        for child in children:
            supervisor.start(child)
        for child in children:
            supervisor.await_line(child)
        # Ours only held the port: connections in its queue would never be accepted.
        sock.close()
        supervisor.run(lambda: _listening(settings, url))


def _write_line(name: str, line: str) -> None:
    click.echo(f"{name:>9} │ {line}", err=True)


def _listening(settings: Settings, url: str) -> None:
    from worker.gateway import serving

    put(f"{serving.READY}{url}/v1")
    put(f"The dashboard is at {url}/ui")
    say(serving.who_is_served(settings))
