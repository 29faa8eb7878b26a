"""The database's history: alembic revisions. Run them with `stockpot db upgrade`.

A wheel carries them as `worker/migrations`; `worker.db.revisions` finds them in both places.
"""
