"""A PgBouncer in transaction mode before the tests' PostgreSQL, where the machine has one (Debian: `pgbouncer`)."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from tests.rig.ports import free_port, fresh_directory
from tests.rig.postgres import PostgresServer
from tests.rig.procs import Process
from tests.rig.waiting import eventually

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextmanager
def pooled(server: PostgresServer, *, connections: int = 4) -> Iterator[int]:
    """The port at which `connections` server connections are shared out, transaction by transaction, as installed."""
    assert PROGRAM is not None
    directory = fresh_directory("pgbouncer")
    port = free_port()
    (directory / "users").write_text('"postgres" ""\n')
    (directory / "pgbouncer.ini").write_text(
        f"""[databases]
* = host=127.0.0.1 port={server.port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
auth_file = {directory / "users"}
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 500
"""
    )
    user = None
    if os.geteuid() == 0:  # it refuses to run as root
        user = "nobody"
        owner = pwd.getpwnam(user)
        for path in (directory, *directory.iterdir()):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    process = Process(
        [PROGRAM, directory / "pgbouncer.ini"], logs=directory, name="pgbouncer", user=user, cwd=directory
    )

    def answers() -> bool:
        assert process.running, process.tail()
        with suppress(psycopg.OperationalError), psycopg.connect(host="127.0.0.1", port=port, user="postgres"):
            return True
        return False

    try:
        eventually(answers, what="PgBouncer answers")
        yield port
    finally:
        process.close()
