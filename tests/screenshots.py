"""What `make screenshots` runs: every page of the dashboard at 1280 and 390 pixels, light and dark, with real jobs in it.

Into build/screenshots; those that the documentation shows go to docs/images as well.
"""

from __future__ import annotations

import io
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.factories import chat
from tests.fakes import Provider, Workplace, workplace
from tests.rig.browser import browser
from tests.rig.gateway import Gateway
from tests.rig.valkey import ValkeyServer
from worker.db.rates.tables import fleet_rates
from worker.producer.stockpot import Stockpot

ROOT = Path(__file__).resolve().parent.parent
OUT, DOCS = ROOT / "build" / "screenshots", ROOT / "docs" / "images"
SIZES = {1280: 900, 390: 844}
#: What stands in the documentation: page, width, scheme. Each page once, of which one is a phone's and two are dark.
SHOWN = {("job", 1280, "dark"), ("playground", 390, "dark")} | {
    (name, 1280, "light")
    for name in (
        "overview",
        "jobs",
        "batch",
        "quote",
        "routes",
        "costs",
        "webhooks",
        "workers",
        "keys",
        "log",
        "sign-in",
    )
}


def main() -> int:
    """Take them."""
    OUT.mkdir(parents=True, exist_ok=True)
    DOCS.mkdir(parents=True, exist_ok=True)
    with stage() as (gateway, pages), browser() as open_page:
        for width, scheme in itertools.product(SIZES, ("light", "dark")):
            page = open_page()
            page.set_viewport_size({"width": width, "height": SIZES[width]})
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of its words
            for name, path in pages.items():
                page.goto(f"{gateway.url}/ui{path}")
                page.wait_for_load_state("networkidle")
                page.wait_for_timeout(600)  # the plots are drawn by then; a picture is judged by eyes
                file = OUT / f"{name}-{width}-{scheme}.png"
                page.screenshot(path=file, full_page=name != "overview" or width > 400)
                if (name, width, scheme) in SHOWN:
                    page.screenshot(path=DOCS / f"dashboard-{name}.png")
    print(f"{len(list(OUT.glob('*.png')))} pictures in {OUT.relative_to(ROOT)}")
    return 0


@contextmanager
def stage() -> Iterator[tuple[Gateway, dict[str, str]]]:
    """A worker and its jobs; the pages by name, in the order in which they are taken."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        provider = stack.enter_context(Provider(home, tokens=60, token_delay=15, first_token_delay=120))
        valkey = stack.enter_context(ValkeyServer())
        # The simulator's list does not have every model that is asked here; the batch's bound needs a price of each.
        url, prices = f"sqlite:///{home}/shop.db", "openai/gpt-4o-mini=0.15/0.6,anthropic/claude-sonnet-4.5=3/15,*=1/2"
        place = stack.enter_context(workplace(provider, url, valkey.url, concurrency=40, prices=prices))
        place.start()
        pot = stack.enter_context(Stockpot(place.settings))
        gateway = stack.enter_context(Gateway(place.settings))
        made = seed(place, pot)
        yield (
            gateway,
            {
                "overview": "/",
                "jobs": "/jobs",
                "change": "/jobs/change?do=retry&status=failed",
                "job": f"/jobs/{made['completed']}",
                "job-failed": f"/jobs/{made['failed']}",
                "job-running": f"/jobs/{made['running']}",
                "batches": "/batches",
                "batch": f"/batches/{made['batch']}",
                "quote": f"/batches/quote?file={made['file']}",
                "quote-bad": f"/batches/quote?file={made['bad']}",
                "routes": "/routes",
                "costs": "/costs",
                "webhooks": "/webhooks",
                "workers": "/workers",
                "keys": "/keys",
                "playground": f"/playground?job={made['completed']}",
                "log": "/log",
                "sign-in": "/sign-in",
                "missing": "/nothing",
            },
        )


def seed(place: Workplace, pot: Stockpot) -> dict[str, str]:
    """Real jobs of every fate; and a past for the plots, which nobody waits a day for."""
    models = ("openai/gpt-5-1-chat-latest", "openai/gpt-4o-mini", "anthropic/claude-sonnet-4.5")

    def ask(prompt: str, model: str, **options: Any) -> str:
        return pot.submit(chat(prompt, model=model, stream=True), **options).id

    failed = ask("Translate the menu", "openai/gpt-4o-mini@sim:503x3", metadata={"team": "menu"})
    for n in range(40):
        ask(f"What goes into stock number {n}?", models[n % 3], metadata={"team": "search" if n % 2 else "menu"})
    for n in range(6):
        ask(f"Is pot {n} clean?", f"{models[n % 3]}@sim:{'400' if n % 2 else 'flagged'}", lane="bulk")
    completed = ask("Why is the sky blue?", models[0], metadata={"team": "search", "user": "ada"})
    pot.budgets.set(Decimal(5), period="day")
    for job in (failed, completed):
        place.ended(job)
    running = ask("Tell me a long story", f"{models[1]}@sim:tokens=4000+slow=60", metadata={"team": "search"})
    ask("Later, please", models[1], delay_seconds=3_600)
    lines = [batch_line(n, models[n % 3]) for n in range(60)]
    pot.webhooks.add("https://example.com/hooks", description="the shop")
    stored = pot.files.add(io.BytesIO(b"".join(lines)), filename="menu.jsonl").id
    bad = pot.files.add(io.BytesIO(lines[0] + b"{not json\n" + lines[0]), filename="bad.jsonl").id
    batch = pot.batches.submit(io.BytesIO(b"".join(lines)), max_cost_usd=2).id
    past(place)
    return {"batch": batch, "file": stored, "bad": bad, "failed": failed, "completed": completed, "running": running}


def batch_line(n: int, model: str) -> bytes:
    """A line of a batch file; each tenth asks for a failure."""
    body = chat(f"Translate dish {n}", model=f"{model}@sim:400" if n % 10 == 7 else model)
    line = {"custom_id": f"dish-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line).encode() + b"\n"


def past(place: Workplace) -> None:
    """Numbers for the plots' last hour, in the shape of a day's work."""
    now = int(time.time()) // 60 * 60
    rows = []
    for ago in range(1, 61):
        wave = 40 + (ago * 7) % 23 - abs(30 - ago) // 2
        amounts = {
            "ended:completed": wave,
            "ended:failed": ago % 7 // 5,
            "cost": wave * 10**9,
            "max:in_flight": wave // 3,
        }
        amounts |= {
            "max:oldest": ago % 9,
            "first:0.5": wave,
            "first:1.0": wave // 8,
            "call:2.5": wave,
            "call:5.0": wave // 6,
        }
        rows += [{"step": 60, "at": now - 60 * ago, "name": name, "amount": amount} for name, amount in amounts.items()]
    with place.database.engine.begin() as conn:
        conn.execute(fleet_rates.insert().prefix_with("OR REPLACE"), rows)


if __name__ == "__main__":
    sys.exit(main())
