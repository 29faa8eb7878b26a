"""Reading a pub/sub connection so that a dead one is noticed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError

#: After this much silence the connection is asked for a sign of life, after twice as much it is given up.
SILENCE_LIMIT = timedelta(seconds=5)


async def messages(pubsub: PubSub) -> AsyncIterator[dict[str, Any]]:
    """Yield every message, confirmations and pongs included, until the connection fails.

    Raises:
        redis.exceptions.RedisError: the connection broke, or gave no sign of life.
    """
    asked = False
    while True:
        message = await pubsub.get_message(timeout=SILENCE_LIMIT.total_seconds())
        if message is not None:
            asked = False
            yield message
        elif asked:
            raise RedisConnectionError("no sign of life from the pub/sub connection")
        else:
            await pubsub.ping()
            asked = True
