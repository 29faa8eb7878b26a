"""The simulator: a real HTTP server that behaves like the provider, in this process or as one of its own.

    simulator = Simulator(SimulatorConfig(journal=path))
    url = await simulator.start()        # http://127.0.0.1:<port>; the API is under <url>/v1
    ...
    await simulator.stop()

It promises that what a client was answered is in the journal, and that the same request gets the same answer.
"""

from __future__ import annotations

from aiohttp import web

from worker.simulator import billing, logs, models
from worker.simulator.admin import Admin
from worker.simulator.completions import complete
from worker.simulator.config import SimulatorConfig
from worker.simulator.refuse import problem
from worker.simulator.state import State

#: A stalled stream must not keep `stop` waiting: its client is gone, or is the test that stops us.
_SHUTDOWN_SECONDS = 0.1


class Simulator:
    """One simulated provider on one port. `url` is its base URL once it listens; `state` is there to look into."""

    def __init__(self, config: SimulatorConfig | None = None) -> None:
        self.config = config or SimulatorConfig()
        self.url = ""
        self.state: State | None = None
        self._runner: web.AppRunner | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen, and return the base URL (without `/v1`). Port 0 takes a free one.

        Raises:
            OSError: the port is taken, or the journal cannot be written.
        """
        state = State(self.config)
        state.journal.open()
        runner = web.AppRunner(
            _application(state), access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_SECONDS
        )
        await runner.setup()
        self.state, self._runner = state, runner
        # A thousand clients may connect at once; the default backlog of 128 would drop some.
        site = web.TCPSite(runner, host, port, backlog=4096)
        try:
            await site.start()
        except OSError:
            await self.stop()
            raise
        self.url = f"http://{host}:{runner.addresses[0][1]}"
        return self.url

    async def stop(self) -> None:
        """Close every connection, end the work in the background, close the journal. Twice is once."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        if self.state is not None:
            await self.state.close()


def _application(state: State) -> web.Application:
    async def chat_completions(request: web.Request) -> web.StreamResponse:
        return await complete(state, request, "/v1/chat/completions")

    async def responses(request: web.Request) -> web.StreamResponse:
        return await complete(state, request, "/v1/responses")

    async def catalogue(request: web.Request) -> web.StreamResponse:
        return models.models(request)

    async def metrics(request: web.Request) -> web.StreamResponse:
        return models.metrics(state, request)

    async def log_rows(request: web.Request) -> web.StreamResponse:
        return logs.logs(state, request)

    async def balance(request: web.Request) -> web.StreamResponse:
        return billing.balance(state, request)

    async def transactions(request: web.Request) -> web.StreamResponse:
        return billing.transactions(state, request)

    async def nowhere(request: web.Request) -> web.StreamResponse:
        body = problem(404, f"Cannot {request.method} {request.path}", path=request.path, request_id="req-0")
        return web.json_response(body, status=404)

    application = web.Application(client_max_size=state.config.max_request_bytes)
    application.add_routes(
        [
            *(web.post(prefix + "/chat/completions", chat_completions) for prefix in ("/v1", "")),
            *(web.post(prefix + "/responses", responses) for prefix in ("/v1", "")),
            *(web.get(prefix + "/models", catalogue) for prefix in ("/v1", "")),
            *(web.get(prefix + "/models/metrics", metrics) for prefix in ("", "/v1")),
            web.get("/v2/logs", log_rows),
            web.get("/v2/billing", balance),
            web.get("/v2/billing/transactions", transactions),
            *Admin(state).routes(),
            web.route("*", "/{path:.*}", nowhere),
        ]
    )
    return application
