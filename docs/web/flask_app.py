"""A page that asks and shows the answer as it comes.

Run: gunicorn --worker-class gthread --threads 64 --graceful-timeout 1 flask_app:app
"""

from pathlib import Path
from typing import Any

from flask import Flask, Response, request, send_file

from stockpot import SSE_HEADERS, InvalidRequest, NotAllowed, NotFound, Stockpot, stockpot_js

MODEL = "openai/gpt-5-1-chat-latest"
app = Flask(__name__)
pot = Stockpot()  # one per process


@app.errorhandler(NotFound)
def not_found(error: NotFound) -> tuple[dict[str, str], int]:
    return {"error": str(error)}, 404


@app.errorhandler(InvalidRequest)
def invalid(error: InvalidRequest) -> tuple[dict[str, str], int]:
    return {"error": str(error)}, 400


@app.errorhandler(NotAllowed)
def not_allowed(error: NotAllowed) -> tuple[dict[str, str], int]:  # it is over already
    return {"error": str(error)}, 409


@app.get("/")
def page() -> Response:
    return send_file(Path(__file__).with_name("page.html").resolve())


@app.get("/stockpot.js")
def script() -> Response:
    return Response(stockpot_js(), mimetype="text/javascript")


@app.post("/jobs")
def ask() -> dict[str, Any]:
    messages = [{"role": "user", "content": request.form["prompt"]}]
    job = pot.submit({"model": request.form.get("model", MODEL), "messages": messages, "stream": True})
    return {"id": job.id}


@app.get("/jobs/<job_id>/events")
def events(job_id: str) -> Response:
    after = request.headers.get("Last-Event-ID") or request.args.get("after")
    return Response(pot.sse(job_id, after), headers=SSE_HEADERS)


@app.post("/jobs/<job_id>/cancel")
def cancel(job_id: str) -> dict[str, str]:
    return {"status": pot.cancel(job_id)}
