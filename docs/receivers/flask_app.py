"""Receive Stockpot's webhooks with Flask: `WEBHOOK_SECRET=whsec_… flask --app flask_app run -p 9000`."""

from __future__ import annotations

import os

from flask import Flask, request

from api_schemas.webhooks import SignatureError, verify

app = Flask(__name__)
seen: set[str] = set()  # in production a table with a unique key: an event may come more than once


@app.post("/stockpot")
def stockpot() -> tuple[str, int]:
    """Verify the raw body, skip what was seen, answer quickly."""
    try:
        event = verify(request.get_data(), dict(request.headers), os.environ["WEBHOOK_SECRET"])
    except SignatureError:
        return "", 401
    if event["id"] not in seen:
        seen.add(event["id"])
        app.logger.info("%s %s", event["type"], event["data"]["id"])
    return "", 204
