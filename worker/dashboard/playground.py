"""Playground: a prompt, a model with its price, the answer as it comes, and the job that it made."""

from __future__ import annotations

from typing import Any

from anyio import to_thread
from starlette.responses import Response

from api_schemas import jsontext
from worker.base.errors import NotFound, Unreachable
from worker.dashboard.jobs import require_no_limits
from worker.dashboard.view import Refused, View, action, page
from worker.producer.access import Role
from worker.producer.models import Model

#: Parameters of the form, with how they are read.
_NUMBERS = {"temperature": float, "top_p": float, "max_tokens": int}


async def playground(view: View) -> Response:
    """`GET /ui/playground`, and with `?job=` what was asked and its answer."""
    models, problem = await _models(view)
    job = asked = None
    if "job" in view.query:
        job = await to_thread.run_sync(lambda: view.host.fleet.job(view.query["job"], tenant=view.viewer.tenant))
        asked = await to_thread.run_sync(view.host.fleet.request, job.id)
    return view.render("playground.html", models=models, problem=problem, job=job, form=_form(asked))


async def _models(view: View) -> tuple[list[Model], str]:
    """The models that the viewer may use, and why there are none."""
    try:
        models = await view.host.models.all()
    except Unreachable as error:
        return [], str(error)
    allowed = view.viewer.models
    return [model for model in models if allowed is None or model.id in allowed], ""


def _form(request: str | None) -> dict[str, Any]:
    """The form's fields for a request; those of a first visit without one."""
    body = {} if request is None else jsontext.loads(request)
    found = {"system": "", "prompt": ""}
    for message in body.get("messages", []):
        if isinstance(message.get("content"), str):
            found["system" if message.get("role") == "system" else "prompt"] = message["content"]
    return {"model": body.get("model", ""), **found, **{name: body.get(name, "") for name in _NUMBERS}}


async def run(view: View) -> Response:
    """`POST /ui/playground/run`."""
    require_no_limits(view)
    form = view.form
    model = form.get("model", "").strip()
    if view.viewer.models is not None and model not in view.viewer.models:
        raise NotFound(f"The model '{model[:128]}' does not exist")
    messages = [{"role": "system", "content": form["system"]}] if form.get("system", "").strip() else []
    messages.append({"role": "user", "content": form.get("prompt", "")})
    body: dict[str, Any] = {"model": model, "messages": messages, "stream": True}
    for name, read in _NUMBERS.items():
        if form.get(name, "").strip():
            try:
                body[name] = read(form[name])
            except ValueError:
                raise Refused(400, "That cannot be accepted", f"{name}: expected a number.") from None
    done = await view.pot(form.get("tenant")).submit(body, metadata={"made_in": "playground"})
    view.target = done.id
    return view.go(f"/playground?job={done.id}")


ROUTES = [
    page("/playground", playground, Role.OPERATE),
    action("/playground/run", run),
]
