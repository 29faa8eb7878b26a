"""Receive Stockpot's webhooks with the OpenAI SDK and no framework: `WEBHOOK_SECRET=whsec_… python openai_sdk.py`.

A receiver that takes OpenAI's webhooks needs another secret, and nothing else.
"""

from __future__ import annotations

import logging
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai

client = openai.OpenAI(api_key="not used", webhook_secret=os.environ.get("WEBHOOK_SECRET"))
seen: set[str] = set()  # in production a table with a unique key: an event may come more than once


class Receiver(BaseHTTPRequestHandler):
    """One path, POST only."""

    def do_POST(self) -> None:
        """Verify the raw body, skip what was seen, answer quickly."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            event = client.webhooks.unwrap(body, dict(self.headers))
        except openai.InvalidWebhookSignatureError:
            self.answer(401)
            return
        if event.id not in seen:
            seen.add(event.id)
            logging.getLogger("stockpot").info("%s %s", event.type, event.data)
        self.answer(204)

    def answer(self, status: int) -> None:
        """Send a status and no body."""
        self.send_response(status)
        self.end_headers()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    ThreadingHTTPServer(("127.0.0.1", 9000), Receiver).serve_forever()
