"""Batches: how far each is, and when it ends; a file is uploaded, quoted with every bad line, and only then run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import Any

from starlette.datastructures import UploadFile
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp

from api_schemas.batch import BatchProblem
from worker.base.money import PICO
from worker.batches.progress import Pace
from worker.dashboard.view import HEADERS, Refused, View, action, page
from worker.producer.access import Role
from worker.producer.batches import BatchOptions, Look, QuotedFile

LISTED = 50
#: Bad lines that the page of a quote shows; all are counted.
NAMED = 1_000
#: The buttons of a batch, with what they do in words.
_BUTTONS = {
    "pause": "It is paused: calls in flight end, and no more begin.",
    "resume": "It goes on.",
    "cancel": "It is being cancelled; what is answered stays.",
}


async def batches(view: View) -> Response:
    """`GET /ui/batches`."""
    before = view.query.get("before")
    pot = view.pot()
    read = partial(pot.blocking.batches.list, limit=LISTED, before=before)
    found = await view.look(f"batches {pot.tenant} {before}", read)
    more = found[-1].id if len(found) == LISTED else None
    return view.render("batches.html", batches=found, more=more, tenant=pot.tenant)


async def _found(view: View) -> tuple[Any, Look]:
    pot = view.pot()
    batch = view.request.path_params["batch"]
    look: Look = await view.look(f"batch {pot.tenant} {batch}", partial(pot.blocking.batches.get, batch))
    return pot, look


async def batch(view: View) -> Response:
    """`GET /ui/batches/{batch}`: the bar, the rate, the forecast; the report once it is over."""
    pot, look = await _found(view)
    row = look.row
    pace: Pace = view.host.looks.keep(f"pace {row.id}", Pace)
    pace.see(row)
    report = None
    if row.over:
        report = await view.look(f"report {row.id}", partial(pot.blocking.batches.report, row.id), 60.0)
    done = row.completed + row.failed
    eta = None if row.over else pace.eta(row)
    ends = ((row.finish_by or row.expires_at) - datetime.now(UTC)).total_seconds()
    return view.render(
        "batch.html",
        look=look,
        row=row,
        rate=pace.lines_per_second,
        eta=eta,
        late=None if eta is None or eta <= ends else eta - ends,
        cap=None if row.max_cost_picousd is None else row.max_cost_picousd / PICO,
        quoted=None if row.quoted_picousd is None else row.quoted_picousd / PICO,
        forecast=row.cost_usd * row.total / done if row.cost_usd is not None and done and not row.over else None,
        report=report,
        tenant=pot.tenant,
    )


async def download(view: View) -> ASGIApp:
    """`GET /ui/batches/{batch}/output` and `/errors`: what is answered so far, as lines; also while it runs."""
    pot, look = await _found(view)
    wanted = view.request.path_params["what"] == "output"

    async def lines() -> AsyncIterator[bytes]:
        async with aclosing(pot.batches.results(look.row.id)) as results:
            async for one in results:
                if one.answered == wanted:
                    yield one.text

    name = f"{look.row.id}-{'output' if wanted else 'errors'}.jsonl"
    headers = HEADERS | {"content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(lines(), headers=headers, media_type="application/jsonl")


def _button(verb: str) -> Any:
    async def press(view: View) -> Response:
        batch, pot = view.request.path_params["batch"], view.pot()
        await getattr(pot.batches, "begin_cancel" if verb == "cancel" else verb)(batch)
        return view.go(f"/batches/{batch}?tenant={pot.tenant}", _BUTTONS[verb])

    return press


async def retry_failed(view: View) -> Response:
    """`POST /ui/batches/{batch}/retry-failed`: its failed lines as a batch of their own."""
    pot = view.pot()
    done = await pot.batches.retry_failed(view.request.path_params["batch"])
    view.target = done.id
    return view.go(f"/batches/{done.id}?tenant={pot.tenant}", "This batch has the failed lines of the one before.")


async def upload(view: View) -> Response:
    """`POST /ui/batches/upload`: keeps the file; its quote is the next page."""
    file = view.upload
    if not isinstance(file, UploadFile) or not file.filename:
        raise Refused(400, "No file", "Choose a file first: one request a line, in OpenAI's batch format.")
    pot = view.pot()
    stored = await pot.files.add(file.file, purpose="batch", filename=file.filename)
    view.target = f"{stored.id} {stored.filename}"
    return view.go(f"/batches/quote?file={stored.id}&tenant={pot.tenant}")


async def quote(view: View) -> Response:
    """`GET /ui/batches/quote?file=…`: what it may cost and take, and every line that is wrong; nothing is run yet."""
    pot = view.pot()
    file = await pot.files.get(view.query.get("file", ""))
    bad: list[BatchProblem] = []

    def read() -> tuple[QuotedFile, list[BatchProblem]]:
        def note(problem: BatchProblem) -> None:
            if len(bad) < NAMED:
                bad.append(problem)

        return pot.blocking.batches.quote(pot.blocking.files.open(file), on_problem=note), bad

    quoted, problems = await view.look(f"quote {file.id}", read, 60.0)
    return view.render("quote.html", file=file, quoted=quoted, problems=problems, tenant=pot.tenant)


async def run(view: View) -> Response:
    """`POST /ui/batches/run`: submits the file that was quoted."""
    pot = view.pot()
    file = await pot.files.get(view.form.get("file", ""))
    options: BatchOptions = {"max_cost_usd": view.form.get("max_cost_usd", "").strip() or None}
    if view.form.get("dedupe"):
        options["dedupe"] = True
    if window := view.form.get("daily_window", "").strip():
        options["daily_window"] = window
    source = await pot.files.open(file)
    done = await pot.batches.submit(source, again=bool(view.form.get("again")), **options)
    view.target = done.id
    words = "It runs." if done.created else "This file with these options was submitted before: this is its batch."
    return view.go(f"/batches/{done.id}?tenant={pot.tenant}", words)


ROUTES = [
    page("/batches", batches),
    page("/batches/quote", quote, Role.OPERATE),
    action("/batches/upload", upload),
    action("/batches/run", run),
    page("/batches/{batch}", batch),
    page("/batches/{batch}/{what:str}.jsonl", download, Role.OPERATE),
    *(action(f"/batches/{{batch}}/{verb}", _button(verb)) for verb in _BUTTONS),
    action("/batches/{batch}/retry-failed", retry_failed),
]
