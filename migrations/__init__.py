"""The database's history: alembic revisions, shipped with the package. Run them with `stockpot db upgrade`."""
