"""The roll-up of what workers do: a number for each name and step of time. Plots read it, and nothing rests on it.

Each worker adds what it did a few times a minute, to three steps at once, so that an hour, a day and a week are some hundred rows
of each name whatever was done in them. Names:

    ended:<status>    jobs that ended      call:<s>, first:<s>    whole calls and first tokens that took up to <s> seconds
    cost              1e-12 US dollars     max:<what>             the highest that any worker saw within the step
    calls:<model>, refused:<model>    calls that ended, and 429s among them; `max:limit:<model>` is the route's limit
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, Table, Text

from worker.db.columns import metadata

fleet_rates = Table(
    "fleet_rates",
    metadata,
    Column("step", Integer, primary_key=True),  # seconds
    Column("at", BigInteger, primary_key=True),  # Unix seconds at which it begins
    Column("name", Text, primary_key=True),
    Column("amount", BigInteger, nullable=False),
)
