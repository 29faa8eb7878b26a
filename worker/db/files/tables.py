"""The files: one row each, and their bytes in pieces.

    files 1──n file_pieces

    uploading ──finished──> ready ──deleted or expired──> deleted ──pieces collected──> no row
    growing   ──finished──>
        └──its owner is gone──> deleted

Only `ready` and `growing` files are visible. An upload that breaks leaves `uploading` behind; the sweeper finds it by
`touched_at` and collects it. `place` is where the bytes are: NULL is `file_pieces.data`, else the URL of the object
storage that was set when the file was made, so that a later change of the setting loses no file.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, LargeBinary, Table, Text, text

from worker.db.columns import Id, Instant, metadata

_LEFT = text("state IN ('uploading', 'deleted')")
_EXPIRES = text("expires_at IS NOT NULL")
_ZERO = text("0")

files = Table(
    "files",
    metadata,
    Column("id", Id, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False, server_default=_ZERO),
    Column("lines", Integer, nullable=False, server_default=_ZERO),  # of a file that a batch writes
    Column("sha256", Text),  # of a whole upload
    Column("place", Text),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant),
    Column("touched_at", Instant, nullable=False),
    CheckConstraint("state IN ('uploading', 'growing', 'ready', 'deleted')", name="state"),
    Index("ix_files_tenant", "tenant", "id"),
    Index("ix_files_left", "touched_at", postgresql_where=_LEFT, sqlite_where=_LEFT),
    Index("ix_files_expires", "expires_at", postgresql_where=_EXPIRES, sqlite_where=_EXPIRES),
)

file_pieces = Table(
    "file_pieces",
    metadata,
    Column("file_id", Id, primary_key=True),
    Column("start", BigInteger, primary_key=True),  # bytes of the file before this piece
    Column("size", Integer, nullable=False),
    Column("lines_before", Integer, nullable=False, server_default=_ZERO),  # lines of the file before this piece
    Column("data", LargeBinary),  # null: an object of the file's place
)
