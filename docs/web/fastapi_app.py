"""A page that asks and shows the answer as it comes.

Run: uvicorn fastapi_app:app
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Form, Header, HTTPException, Response
from fastapi.responses import FileResponse, StreamingResponse

from stockpot import SSE_HEADERS, AsyncStockpot, InvalidRequest, NotAllowed, NotFound, stockpot_js

MODEL = "openai/gpt-5-1-chat-latest"
pot = AsyncStockpot()  # one per process


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await pot.close()


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("page.html"))


@app.get("/stockpot.js")
async def script() -> Response:
    return Response(stockpot_js(), media_type="text/javascript")


@app.post("/jobs")
async def ask(prompt: Annotated[str, Form()], model: Annotated[str, Form()] = MODEL) -> dict[str, str]:
    messages = [{"role": "user", "content": prompt}]
    job = await pot.submit({"model": model, "messages": messages, "stream": True})
    return {"id": job.id}


@app.get("/jobs/{job_id}/events")
async def events(
    job_id: str, after: str | None = None, last_event_id: Annotated[str | None, Header()] = None
) -> StreamingResponse:
    try:
        frames = await pot.sse(job_id, last_event_id or after)
    except NotFound as error:
        raise HTTPException(404, str(error)) from error
    except InvalidRequest as error:
        raise HTTPException(400, str(error)) from error
    return StreamingResponse(frames, headers=SSE_HEADERS)


@app.post("/jobs/{job_id}/cancel")
async def cancel(job_id: str) -> dict[str, str]:
    try:
        return {"status": await pot.cancel(job_id)}
    except NotFound as error:
        raise HTTPException(404, str(error)) from error
    except NotAllowed as error:  # it is over already
        raise HTTPException(409, str(error)) from error
