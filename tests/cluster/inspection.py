"""Looking into a running cluster from the outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests

from chunkserver.client import HttpChunkStore
from chunkserver.interface import ChunkInfo
from metaserver.client import HttpMetaStore
from speedy.cluster import LocalCluster
from speedy.cluster_plan import Process
from wire.auth import ClusterKey


def key_of(cluster: LocalCluster) -> ClusterKey:
    return ClusterKey.load(cluster.directory / "cluster.key")


@contextmanager
def meta_store(cluster: LocalCluster) -> Iterator[HttpMetaStore]:
    store = HttpMetaStore([meta.url for meta in cluster.plan().of("metaserver")], key_of(cluster))
    try:
        yield store
    finally:
        store.close()


@contextmanager
def chunk_store(cluster: LocalCluster, url: str) -> Iterator[HttpChunkStore]:
    store = HttpChunkStore(url, key_of(cluster))
    try:
        yield store
    finally:
        store.close()


def all_chunks(cluster: LocalCluster, server: Process) -> dict[int, ChunkInfo]:
    """Every chunk of a ChunkServer with its place."""
    found: dict[int, ChunkInfo] = {}
    with chunk_store(cluster, server.url) as store:
        after = 0
        while page := store.list_chunks(after, 1000):
            found |= {chunk.fid: chunk for chunk in page}
            after = page[-1].fid
    return found


def bytes_sent(processes: tuple[Process, ...]) -> float:
    """Bytes of bodies that these processes have answered with, together."""
    total = 0.0
    for process in processes:
        for line in requests.get(f"{process.url}/metrics", timeout=10).text.splitlines():
            if line.startswith("speedy_body_bytes_total{") and 'direction="out"' in line:
                total += float(line.rpartition(" ")[2])
    return total
