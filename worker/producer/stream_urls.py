"""Signed URLs for one job's events: a browser's EventSource sends no header, and shall need no key.

    /jobs/<job>/events?token=<expires>.<tenant>.<signature>

The signature (HMAC-SHA256) covers the job, its tenant and the time, under a key derived from `STOCKPOT_SECRET_KEY` or the
home's key file: a token opens the events of one job of one tenant until it expires, and nothing else. Every process that
makes or checks one needs the same key. The URL is enough to read the job: it is as secret as the text.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Sequence
from datetime import timedelta

from api_schemas.errors import FieldProblem
from worker.base.errors import InvalidRequest, NotAllowed

#: How long a URL is good for unless asked otherwise.
EXPIRES = timedelta(hours=1)
#: The longest: a month.
LONGEST = timedelta(days=31)
_REFUSED = "this link is not valid, or no longer; ask for a new one"


def sign(keys: Sequence[bytes], job_id: str, tenant: str, expires: timedelta | float) -> str:
    """A token for one job's events. Raises InvalidRequest for a time that is not between 0 and a month."""
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else float(expires)
    if not 0 < seconds <= LONGEST.total_seconds():
        problem = f"expected a time above 0 and up to {LONGEST.days} days, got {seconds:g} s"
        raise InvalidRequest([FieldProblem(field="expires", message=problem)])
    until = int(time.time() + seconds) + 1
    return f"{until}.{_spell(tenant.encode())}.{_signature(keys[0], job_id, tenant, until)}"


def verify(keys: Sequence[bytes], job_id: str, token: str) -> str:
    """The tenant whose job may be followed with this token.

    Raises:
        NotAllowed: it is none of ours, of another job, or has expired; which of these is not revealed.
    """
    try:
        until, spelled, signature = token.split(".")
        tenant = base64.urlsafe_b64decode(spelled + "=" * (-len(spelled) % 4)).decode()
        expected = [_signature(key, job_id, tenant, int(until)) for key in keys]
    except (ValueError, binascii.Error):
        raise NotAllowed(_REFUSED) from None
    if (until, spelled) != (str(int(until)), _spell(tenant.encode())):  # another spelling of the same is none of ours
        raise NotAllowed(_REFUSED)
    signed = [hmac.compare_digest(one.encode(), signature.encode("utf-8", "replace")) for one in expected]
    if not any(signed) or time.time() >= int(until):
        raise NotAllowed(_REFUSED)
    return tenant


def _signature(key: bytes, job_id: str, tenant: str, until: int) -> str:
    signed = f"{len(job_id)}:{job_id}\n{len(tenant)}:{tenant}\n{until}"
    return _spell(hmac.new(key, signed.encode("utf-8", "surrogatepass"), hashlib.sha256).digest())


def _spell(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")
