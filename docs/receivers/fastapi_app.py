"""Receive Stockpot's webhooks with FastAPI: `WEBHOOK_SECRET=whsec_… uvicorn fastapi_app:app --port 9000`."""

from __future__ import annotations

import logging
import os

from fastapi import FastAPI, HTTPException, Request

from api_schemas.webhooks import SignatureError, verify

app = FastAPI()
seen: set[str] = set()  # in production a table with a unique key: an event may come more than once


@app.post("/stockpot", status_code=204)
async def stockpot(request: Request) -> None:
    """Verify the raw body, skip what was seen, answer quickly."""
    try:
        event = verify(await request.body(), request.headers, os.environ["WEBHOOK_SECRET"])
    except SignatureError as error:
        raise HTTPException(status_code=401) from error
    if event["id"] not in seen:
        seen.add(event["id"])
        logging.getLogger("stockpot").info("%s %s", event["type"], event["data"]["id"])
