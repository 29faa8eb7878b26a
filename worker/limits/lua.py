"""The scripts that keep the limits in Redis, from the `.lua` files beside this one; each begins with its arguments and reply.

Each is one atomic step on Redis' own clock; times are milliseconds. Requests and replies are JSON: the scripts are read
more often than they are changed, and parsing costs a few microseconds against a round trip of some hundred. Absolute
reports ("I hold 12") and a number that rises with each request make a request that is lost, late or doubled harmless.
"""

from __future__ import annotations

from importlib import resources

from worker.limits.minute import AHEAD_MS, BUCKET_MS, BUCKETS, SPAN_MS


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8")


#: Milliseconds: no pause, no wait that an upstream asks for and no probe lies further ahead (each is two minutes at most).
FARTHEST_MS = 150_000
_CLOCK = f"local FARTHEST = {FARTHEST_MS}\n" + _read("clock")
_NUMBERS = f"local BUCKET, BUCKETS, SPAN, AHEAD = {BUCKET_MS}, {BUCKETS}, {SPAN_MS}, {AHEAD_MS}\n"

#: Stop calls.
PAUSE = _CLOCK + _read("pause")
#: Let calls out again.
RESUME = _read("resume")
#: Whether words about the account are to be believed.
REFUSED = _read("refused")
#: Elect one prober of a paused account.
ELECT = _CLOCK + _read("elect")
#: Close a learning window.
LEARN = _CLOCK + _read("learn")
#: Be counted among the workers.
BEAT = _CLOCK + _read("beat")
#: The one script of the hot path: report what is held, seen and spent; ask for more.
SYNC = _CLOCK + _NUMBERS + _read("sync")
#: Permits held by workers that are alive.
IN_FLIGHT = _read("in_flight")
