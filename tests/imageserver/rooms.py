"""What these tests start in processes of their own, through tests.wire.serving."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from imageserver import wsgi
from wire.server import RoomApp
from wire.settings import ClusterSettings, ImageServerSettings, Settings


def build_imageserver(masters: list[str], key_file: str, state_dir: str, replica_timeout_s: float = 0.5) -> RoomApp:
    """An ImageServer, composed as in production."""
    return wsgi.build(
        replace(
            Settings(),
            cluster=ClusterSettings(key_file=Path(key_file), masters=tuple(masters)),
            imageserver=replace(
                ImageServerSettings(),
                state_dir=Path(state_dir),
                replica_timeout_s=replica_timeout_s,
                put_deadline_s=max(6.0, 2 * replica_timeout_s),
                refresh_s=0.1,
            ),
        )
    )
