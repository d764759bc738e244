"""Meta stores for tests: local ones on SQLite and PostgreSQL, and one over HTTP in a real server process."""

from __future__ import annotations

import hashlib
import itertools
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, delete

from metaserver import migrations
from metaserver.app import create_app
from metaserver.client import HttpMetaStore
from metaserver.core import LocalMetaStore
from metaserver.interface import Fragment, MetaStore, NewManifest
from metaserver.models import metadata
from tests.wire.serving import serving
from wire.auth import ClusterKey
from wire.database import create_engine, run_transaction
from wire.server import RoomApp

KINDS = ("sqlite", "postgres", "http")

MEDIA_TYPE = "application/vnd.oci.image.manifest.v1+json"

_fids = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Opened:
    """A store under test, and the engine of the database behind it."""

    store: MetaStore
    engine: Engine

    def empty(self) -> None:
        """Take everything out but the schema: a fresh database for each test would take most of the time."""
        tables = reversed(metadata.sorted_tables)
        run_transaction(
            self.engine, lambda connection: [connection.execute(delete(table)) for table in tables] and None
        )


@contextmanager
def local(url: str) -> Iterator[Opened]:
    engine = create_engine(url, wait_s=10.0, pool_max=20)
    migrations.upgrade(engine)
    try:
        yield Opened(LocalMetaStore(engine), engine)
    finally:
        engine.dispose()


@contextmanager
def over_http(directory: Path) -> Iterator[Opened]:
    url = f"sqlite:///{directory / 'http.db'}"
    secret = secrets.token_hex(32)
    with local(url) as opened, serving("tests.metaserver.stores:build", {"url": url, "secret": secret}) as server:
        client = HttpMetaStore([server.url], ClusterKey(bytes.fromhex(secret)), wait_s=10.0)
        yield Opened(client, opened.engine)
        client.close()


def build(url: str, secret: str) -> RoomApp:
    engine = create_engine(url, wait_s=10.0)
    return RoomApp(create_app(LocalMetaStore(engine), key=ClusterKey(bytes.fromhex(secret))), engine.dispose)


# -- things to store --------------------------------------------------------------------------------------------------


def cut(*lengths: int, offset: int = 0) -> tuple[Fragment, ...]:
    """Fragments of these lengths from `offset` on, each with a chunk that no other has."""
    made = []
    for length in lengths:
        fid = next(_fids)
        made.append(Fragment(offset, length, fid, 1 + fid % 3, fid * 2654435761 % 2**32))
        offset += length
    return tuple(made)


def digest_of(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def new_manifest(
    text: str,
    *,
    blobs: Sequence[str] = (),
    manifests: Sequence[str] = (),
    optional: Sequence[str] = (),
    subject: str | None = None,
    artifact_type: str | None = None,
    annotations: dict[str, str] | None = None,
    media_type: str = MEDIA_TYPE,
    fragments: tuple[Fragment, ...] | None = None,
) -> NewManifest:
    fragments = cut(len(text)) if fragments is None else fragments
    return NewManifest(
        digest=digest_of(text),
        media_type=media_type,
        size=sum(fragment.length for fragment in fragments),
        fragments=fragments,
        subject=subject,
        artifact_type=artifact_type,
        annotations=annotations or {},
        blobs=tuple(blobs),
        manifests=tuple(manifests),
        optional=tuple(optional),
    )


def dead_fids(store: MetaStore) -> set[int]:
    return {fragment.fid for fragment in store.dead_fragments(0.0, 10_000)}


def fids_of(fragments: Sequence[Fragment]) -> set[int]:
    return {fragment.fid for fragment in fragments}


def repositories(store: MetaStore) -> list[str]:
    return list(store.repositories().names)
