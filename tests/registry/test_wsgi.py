"""The composition root refuses what it cannot work with, in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from registry_driver.wsgi import build
from wire.auth import ClusterKey
from wire.server import StartRefused
from wire.settings import ClusterSettings, Settings


@pytest.mark.parametrize("missing", ["key_file", "metaservers", "imageservers"])
def test_a_registry_without_a_cluster_does_not_start(tmp_path: Path, missing: str) -> None:
    ClusterKey.generate().save(tmp_path / "key")
    whole = ClusterSettings(
        key_file=tmp_path / "key", metaservers=("http://127.0.0.1:1",), imageservers=("http://127.0.0.1:2",)
    )
    cluster = replace(whole, **{missing: None if missing == "key_file" else ()})
    with pytest.raises(StartRefused, match=missing):
        build(Settings(cluster=cluster))


def test_a_registry_starts_while_the_other_rooms_are_away(tmp_path: Path) -> None:
    ClusterKey.generate().save(tmp_path / "key")
    cluster = ClusterSettings(
        key_file=tmp_path / "key", metaservers=("http://127.0.0.1:1",), imageservers=("http://127.0.0.1:2",)
    )
    room = build(Settings(cluster=cluster))
    try:
        client = room.app.test_client()  # type: ignore[attr-defined]
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 503
    finally:
        room.close()
