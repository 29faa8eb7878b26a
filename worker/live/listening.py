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
    asked, seconds = False, SILENCE_LIMIT.total_seconds()
    # `get_message` would try again by rules of its own around each read: a third of a reader's time, and the rule is ours.
    connection: Any = pubsub.connection
    handle: Any = pubsub.handle_message
    while True:
        answer = await connection.read_response(timeout=seconds, disconnect_on_error=False, push_request=True)
        message = None if answer is None else await handle(answer)
        if message is not None:
            asked = False
            yield message
        elif asked:
            raise RedisConnectionError("no sign of life from the pub/sub connection")
        else:
            await pubsub.ping()
            asked = True
