"""The embedded Valkey of a home, for machines without a Redis.

server  The embedded Valkey of a home
"""

from __future__ import annotations

from worker.embedded.server import broker_url, ensure, find, in_force, lease, redis_url, server_binary, stop

__all__ = ["broker_url", "ensure", "find", "in_force", "lease", "redis_url", "server_binary", "stop"]
