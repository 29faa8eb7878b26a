"""Keys of the gateway and of this dashboard: make (shown once), limits, when it was used last, revoke."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any

from anyio import to_thread
from starlette.responses import Response

from worker.dashboard.view import Refused, View, action, page
from worker.producer.access import Role


async def keys(view: View) -> Response:
    """`GET /ui/keys`."""
    found = await view.look("keys", view.host.keys.list)
    return view.render("keys.html", keys=found, now=datetime.now(UTC))


async def make(view: View) -> Response:
    """`POST /ui/keys/make`."""
    form = {name: value.strip() for name, value in view.form.items() if value.strip()}
    options: dict[str, Any] = {"name": form.get("name", ""), form.get("role", "operator"): True}
    options.pop("operator", None)
    try:
        options |= {name: int(form[name]) for name in ("rpm", "tpm", "max_in_flight") if name in form}
        if "budget_usd" in form:
            options["budget_usd"] = Decimal(form["budget_usd"])
        if "days" in form:
            options["expires_at"] = datetime.now(UTC) + timedelta(days=int(form["days"]))
    except (ValueError, InvalidOperation, OverflowError):
        raise Refused(400, "That cannot be accepted", "Limits, budget and days are numbers.") from None
    if set(options) - {"name", "admin", "read_only", "rpm", "tpm", "max_in_flight", "budget_usd", "expires_at"}:
        raise Refused(400, "That cannot be accepted", "A key's role is operator, admin or read_only.")
    if "models" in form:
        options["models"] = [one.strip() for one in form["models"].split(",") if one.strip()]
    make_it = partial(view.host.keys.create, form.get("tenant", "default"), **options)
    key, secret = await to_thread.run_sync(make_it)
    view.target = key.id
    if view.viewer.key_id is None:
        # The first key: from now on every user signs in, this browser too.
        return view.render("secret.html", what=f"Key {key.id}; now every user signs in", secret=secret, back="/")
    return view.render("secret.html", what=f"Key {key.id} of tenant {key.tenant}", secret=secret, back="/keys")


async def revoke(view: View) -> Response:
    """`POST /ui/keys/revoke`."""
    key = await to_thread.run_sync(view.host.keys.revoke, view.form.get("key", ""))
    view.target = f"done: {key.id}"
    return view.go("/keys", f"{key.id} is revoked; its jobs go on.")


ROUTES = [
    page("/keys", keys, Role.ADMIN),
    action("/keys/make", make, Role.ADMIN),
    action("/keys/revoke", revoke, Role.ADMIN),
]
