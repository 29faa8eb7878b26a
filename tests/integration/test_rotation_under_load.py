"""Keys of payloads, of webhook secrets and of the provider replaced while jobs run: nothing is lost, called twice or unsigned."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pydantic import SecretStr

from api_schemas.jobs import parse_job
from tests.factories import chat, opened, rows
from tests.fakes import Provider, workplace
from tests.rig.hookd import HookReceiver
from tests.rig.waiting import eventually
from worker.db.connect import Database
from worker.db.jobs import lookup, submit
from worker.db.ready import ensure_schema
from worker.engine.engine import Engine
from worker.files import resealing
from worker.webhooks import admin
from worker.webhooks.secrets import Vault

OLD, NEW = "an old key that is long enough", "a new key that is long enough"


def test_every_key_is_replaced_by_rolling_restarts(
    database: Database, redis_url: str, hooks: HookReceiver, tmp_path: Path
) -> None:
    """Workers follow each other with `OLD`, `OLD,NEW`, `NEW,OLD` and `NEW`, each beside the one before; jobs come all the time."""
    url, key_file = database.settings.database_url, tmp_path / "key"
    key_file.write_text("sk-before")
    ids: list[str] = []
    with (
        Provider(tmp_path) as provider,
        workplace(
            provider,
            url,
            redis_url,
            api_key=None,
            api_key_file=key_file,
            webhook_allow_private="127.0.0.0/8",
            payload_key=OLD,
            secret_key=OLD,
        ) as place,
    ):
        first = place.settings

        def load(keys: str, count: int) -> None:
            """Jobs of a producer that has these keys."""
            with opened(url, payload_key=keys, redis_url="redis://127.0.0.1:1/0") as producer:
                asked = [
                    parse_job(chat(f"prompt {len(ids) + at}", model="m@sim:slow=20", stream=True))
                    for at in range(count)
                ]
                done = producer.write(lambda conn: submit.insert(conn, asked, producer.settings))
            ids.extend(one.id for one in done)

        ensure_schema(first)
        added = place.database.write(lambda conn: admin.add_endpoint(conn, Vault.of(first), hooks.url("/ok")))
        hooks.secrets.append(added.secret)
        running: Engine | None = None
        for keys in (OLD, f"{OLD},{NEW}", f"{NEW},{OLD}", NEW):
            if keys == NEW:
                with opened(url, payload_key=f"{NEW},{OLD}", secret_key=f"{NEW},{OLD}") as both:
                    resealing.everything(both)
                    both.write(partial(admin.seal_again, vault=Vault.of(both.settings)))
            load(keys, 10)
            newer = place.start(payload_key=SecretStr(keys), secret_key=SecretStr(keys))
            newer.ring(ids[-10:])
            if running is not None:
                running.drain()
            running = newer
            key_file.write_text(f"sk-{len(ids)}")
        eventually(lambda: _open(database) == 0, what="all jobs are over")
        eventually(lambda: len({one.id for one in hooks.deliveries()}) >= len(ids), what="all webhooks came")
        assert [len(provider.calls(job)) for job in ids] == [1] * len(ids)
    with opened(url, payload_key=NEW) as now:
        found = [now.read(lambda conn, job=job: lookup.job(conn, job, tenant=None)) for job in ids]  # type: ignore[misc]
        assert {one.status for one in found} == {"completed"}
        assert all(one.text for one in found)


def _open(database: Database) -> int:
    return int(rows(database, "SELECT count(*) AS n FROM jobs WHERE finished_at IS NULL")[0]["n"])
