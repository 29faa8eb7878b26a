"""`stockpot up`: everything for development, in the foreground."""

from __future__ import annotations

import contextlib
import shlex
import sys
import threading
from datetime import timedelta
from pathlib import Path

import click

from api_schemas import jsontext
from worker import embedded
from worker.base import ports, urls
from worker.base.errors import NotAllowed, Unreachable
from worker.base.settings import Settings, load
from worker.cli.exit_codes import USAGE
from worker.cli.output import coloured, put, say, shown
from worker.db.ready import await_database
from worker.db.url import display_url
from worker.local.running import SIMULATED_KEY, noted, running
from worker.local.supervise import Child, Supervisor, stopping
from worker.local.words import program

_MODEL = "openai/gpt-5-1-chat-latest"
#: Where the gateway listens.
_HOST = "127.0.0.1"
_COLOURS = ("cyan", "magenta", "green", "yellow", "blue")


@click.command(
    epilog="""\b
Examples:
  stockpot up --simulate            no key needed: the bundled simulator answers
  AIMLAPI_API_KEY=… stockpot up     the real API
  stockpot up --workers 2
"""
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N", help="One per core.")
@click.option("--simulate", is_flag=True, help="Let the bundled upstream simulator answer; nothing costs money.")
def up(workers: int, *, simulate: bool) -> None:
    """Run everything for development: embedded Valkey (unless STOCKPOT_REDIS_URL is set), the database, workers.

    Ctrl-C drains: the workers finish what runs, within STOCKPOT_DRAIN_SECONDS. A second Ctrl-C hurries them.
    """
    settings = load()
    if not simulate and settings.key is None:
        if "upstream_url" not in settings.model_fields_set:
            say("there is no API key.", lead=click.style("Error: ", fg="red", bold=True))
            say("  Set AIMLAPI_API_KEY, or run `stockpot up --simulate`, which needs none.")
            say("  For a server that asks for none (Ollama, vLLM): STOCKPOT_UPSTREAM_URL=http://127.0.0.1:11434/v1")
            click.get_current_context().exit(USAGE)
        say("No API key is set: calls go without one.")
    if running(settings.home) is not None:  # jobs would go to one's upstream or to the other's
        raise NotAllowed(
            f"`stockpot up` runs in {settings.home} already. More workers: --workers N; one beside it: another STOCKPOT_HOME."
        )
    _check_ports(settings, workers)
    with contextlib.ExitStack() as stack:
        supervisor = stack.enter_context(Supervisor(_Lines(), drain=timedelta(seconds=settings.drain_seconds)))
        redis = settings.redis_url or stack.enter_context(embedded.lease(settings.home))
        await_database(settings, lambda error, seconds: _wait(supervisor, error, seconds))
        env = {"STOCKPOT_LOG_FORMAT": "console"} if settings.log_format == "auto" and sys.stderr.isatty() else {}
        if "log_jobs" not in settings.model_fields_set:
            env["STOCKPOT_LOG_JOBS"] = "all"  # a line for each job: this is one person's terminal
        upstream, needed = settings.upstream_url, list[Child]()
        if simulate:
            simulator = Child("simulator", ["worker.simulator"], awaited='{"url":')
            stack.enter_context(stopping(supervisor, [simulator]))
            supervisor.start(simulator)
            line = supervisor.await_line(simulator)
            if line is None:
                return
            address = jsontext.loads(line)["url"]
            needed = [simulator]
            # Should it crash, it must come back where the workers look for it.
            simulator.command = [*simulator.command, "--port", address.rpartition(":")[2]]
            upstream = f"{address}/v1"
            env |= {"STOCKPOT_UPSTREAM_URL": upstream, "AIMLAPI_API_KEY": SIMULATED_KEY}
        children = [_worker(number, settings, env) for number in range(1, workers + 1)]
        for child in children:
            child.needs = needed
        stack.enter_context(stopping(supervisor, children))
        gateway = _gateway(settings, env)
        if gateway is not None:
            stack.enter_context(stopping(supervisor, [gateway]))
            children.append(gateway)
        stack.enter_context(noted(settings.home, upstream if simulate else None))
        _print_what_runs(settings, redis, upstream, workers, simulate=simulate)
        for child in children:
            supervisor.start(child)
        supervisor.run(lambda: _print_ready(settings, gateway))
        say("Stopping: the workers finish what runs. Ctrl-C again hurries them.")
    say("Stopped.")


def _check_ports(settings: Settings, workers: int) -> None:
    """Refuse ports of settings that another program has: a worker would end at each start.

    Raises:
        SettingsError: names the setting and the port.
    """
    if settings.http_port is not None:
        for number in range(workers):
            ports.check("STOCKPOT_HTTP_PORT", settings.http_host, settings.http_port + number)
    if "gateway_port" in settings.model_fields_set and settings.gateway_port:
        ports.check("STOCKPOT_GATEWAY_PORT", _HOST, settings.gateway_port)


def _wait(supervisor: Supervisor, error: Unreachable, seconds: float) -> None:
    """Print that the database is awaited, and wait; Ctrl-C gives up."""
    first, *_ = str(error).splitlines()
    say(f"{first}\n  Asking it again in {seconds:g} s; Ctrl-C gives up.")
    if supervisor.pause(seconds):
        raise KeyboardInterrupt


def _worker(number: int, settings: Settings, env: dict[str, str]) -> Child:
    own = dict(env)
    if settings.http_port is not None:
        own["STOCKPOT_HTTP_PORT"] = str(settings.http_port + number - 1)
    name = f"worker-{number}"
    command = ["worker.celery", "--quiet", "worker", "-n", f"{name}@%h"]
    return Child(name, command, own, awaited=" ready.")


def _gateway(settings: Settings, env: dict[str, str]) -> Child | None:
    """The gateway, on a free port when the default one is taken; None without its extra."""
    try:
        from worker.gateway import serving
    except ModuleNotFoundError:
        return None
    try:
        sock = serving.listen(_HOST, settings.gateway_port)
    except OSError as error:
        say(f"{ports.taken('STOCKPOT_GATEWAY_PORT', _HOST, settings.gateway_port, error)}. It takes a free one.")
        sock = serving.listen(_HOST, 0)
    port = sock.getsockname()[1]  # should it crash, it must come back where clients look for it
    sock.close()
    return Child("gateway", serving.command(_HOST, port), env, awaited=serving.READY)


class _Lines:
    """Writes the children's lines to stderr, each with its writer's name; whole lines, from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._colours: dict[str, str] = {}
        self._coloured = coloured()

    def __call__(self, name: str, line: str) -> None:
        with self._lock:
            colour = self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
            # Colours of a worker's own console log pass: it is ours, and escapes what others wrote.
            click.echo(click.style(f"{name:>9} │ ", fg=colour) + line, err=True, color=self._coloured)


def _print_what_runs(settings: Settings, redis: str, upstream: str, workers: int, *, simulate: bool) -> None:
    database = display_url(settings)
    where = urls.without_credentials(redis) if settings.redis_url else f"embedded Valkey under {settings.home}"
    facts = {
        "database": database,
        "redis": where,
        "upstream": f"{upstream}{' (the simulator; nothing costs money)' if simulate else ''}",
        "workers": f"{workers}, up to {settings.concurrency} calls in flight each",
    }
    for name, value in facts.items():
        put(f"{name:>9}   {shown(value)}")


def _print_ready(settings: Settings, gateway: Child | None) -> None:
    here = settings.home == Path("var").absolute()
    home = "" if here else f"STOCKPOT_HOME={shlex.quote(str(settings.home))} "
    put("Ready. Submit from another terminal" + (" (in this directory)" if here else "") + ":")
    put(f'  {home}{program()} submit -m {_MODEL} --stream "Why is the sky blue?"')
    if gateway is not None and gateway.ready_line is not None:
        address = gateway.ready_line.rpartition(" ")[2]
        put(f"Or point any OpenAI SDK at {address}")
        put(f"The dashboard: {address.removesuffix('/v1')}/ui")
    put("Ctrl-C stops everything that this command started.")
