"""Blobs remember that a reader found no good copy of some of their chunks."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("blobs", sa.Column("damaged_s", sa.Double))
