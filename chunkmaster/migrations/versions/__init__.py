"""Alembic revisions, in one line of descent."""
