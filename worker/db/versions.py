"""Which revision a database is at, against the one that this version of Stockpot needs."""

from __future__ import annotations

from worker.db.connect import OtherSchema
from worker.db.revisions import HEAD


def other(at: str | None) -> OtherSchema | None:
    """Why a database at this revision is none for this version, with how to mend that; nothing for one that is."""
    upgrade = "Run `stockpot db upgrade`."
    if at == HEAD:
        return None
    if at is None:
        return OtherSchema("has no tables of Stockpot yet", upgrade)
    if at < HEAD:  # revisions are numbers of four digits
        return OtherSchema(f"is older than this version of Stockpot: at {at}, needed is {HEAD}", upgrade)
    return OtherSchema(
        f"is newer than this version of Stockpot: at {at}, known is nothing beyond {HEAD}",
        "Install the version of Stockpot that upgraded it, or a newer one.",
    )


def refuse_newer(at: str | None) -> None:
    """Raise OtherSchema for a database that a newer version has upgraded: nothing here knows how to change it."""
    if at is not None and at > HEAD and (why := other(at)) is not None:
        raise why
