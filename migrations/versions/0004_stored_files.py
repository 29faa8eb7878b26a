"""stored files, and batches that are made of them

Revision: 0004 · after: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from worker.db.columns import Instant, RawJSON

revision = "0004"
down_revision = "0003"

_LEFT = sa.text("state IN ('uploading', 'deleted')")
_EXPIRES = sa.text("expires_at IS NOT NULL")
_FILING = sa.text("output_file_id IS NOT NULL AND finished_at IS NULL")


def _id() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "files",
        sa.Column("id", _id(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("lines", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("place", sa.Text(), nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("expires_at", Instant(), nullable=True),
        sa.Column("touched_at", Instant(), nullable=False),
        sa.CheckConstraint("state IN ('uploading', 'growing', 'ready', 'deleted')", name=op.f("ck_files_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
    )
    op.create_index("ix_files_tenant", "files", ["tenant", "id"])
    op.create_index("ix_files_left", "files", ["touched_at"], postgresql_where=_LEFT, sqlite_where=_LEFT)
    op.create_index("ix_files_expires", "files", ["expires_at"], postgresql_where=_EXPIRES, sqlite_where=_EXPIRES)
    op.create_table(
        "file_pieces",
        sa.Column("file_id", _id(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("lines_before", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("file_id", "start", name=op.f("pk_file_pieces")),
    )
    with op.batch_alter_table("batches", schema=None) as batch_op:
        batch_op.add_column(sa.Column("input_file_id", _id(), nullable=True))
        batch_op.add_column(sa.Column("output_file_id", _id(), nullable=True))
        batch_op.add_column(sa.Column("error_file_id", _id(), nullable=True))
        batch_op.add_column(sa.Column("written", sa.Integer(), server_default=sa.text("0"), nullable=False))
        batch_op.add_column(sa.Column("errors", RawJSON(), nullable=True))
        batch_op.add_column(sa.Column("fingerprint", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("allowed_models", RawJSON(), nullable=True))
        batch_op.add_column(sa.Column("output_expires_seconds", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("began_at", Instant(), nullable=True))
        batch_op.add_column(sa.Column("finalizing_at", Instant(), nullable=True))
        batch_op.drop_constraint(op.f("ck_batches_status"), type_="check")
        batch_op.drop_constraint(op.f("ck_batches_finished_iff_over"), type_="check")
        batch_op.create_check_constraint(
            op.f("ck_batches_status"),
            "status IN ('validating', 'in_progress', 'finalizing', 'cancelling',"
            " 'failed', 'completed', 'expired', 'cancelled')",
        )
        batch_op.create_check_constraint(
            op.f("ck_batches_finished_iff_over"),
            "(finished_at IS NOT NULL) = (status IN ('failed', 'completed', 'expired', 'cancelled'))",
        )
        batch_op.create_index("ix_batches_filing", ["id"], postgresql_where=_FILING, sqlite_where=_FILING)
