"""Upload sessions know when something was last added to them, so that abandoned ones can be ended."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # A default, because SQLite adds no column that must have a value without one; nothing relies on it later.
    op.add_column("uploads", sa.Column("advanced_s", sa.Double, nullable=False, server_default=sa.text("0")))
    op.execute("UPDATE uploads SET advanced_s = started_s")
    op.create_index("ix_uploads_advanced_s", "uploads", ["advanced_s"])
