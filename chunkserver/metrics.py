"""What a ChunkServer adds to /metrics: space, state, compaction and the scrub, read when somebody looks."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from chunkserver.interface import ChunkServer, ScrubStatus, StoreStat
from wire.errors import SpeedyError


class StoreCollector(Collector):
    """Space and state, read when somebody looks."""

    def __init__(self, store: ChunkServer) -> None:
        self._store = store

    def collect(self) -> Iterable[Metric]:
        try:
            stat, scrub = self._store.stat(), self._store.scrub_status()
        except SpeedyError:
            return
        yield GaugeMetricFamily("speedy_chunks", "Chunks stored", stat.chunks)
        sizes = GaugeMetricFamily("speedy_chunk_bytes", "Space of the data directory", labels=["kind"])
        for kind in ("live", "dead", "free", "total"):
            sizes.add_metric([kind], getattr(stat, f"{kind}_bytes"))
        yield sizes
        volumes = GaugeMetricFamily("speedy_volumes", "Volumes of the data directory", labels=["kind"])
        volumes.add_metric(["all"], stat.volumes)
        volumes.add_metric(["failed"], stat.volumes_failed)
        volumes.add_metric(["quarantined"], stat.volumes_quarantined)
        yield volumes
        disks = GaugeMetricFamily("speedy_disks", "Disks of this server", labels=["kind"])
        disks.add_metric(["all"], stat.disks)
        disks.add_metric(["failed"], stat.disks_failed)
        yield disks
        states = GaugeMetricFamily("speedy_chunkserver_state", "1 for the present state", labels=["state"])
        for state in ("rw", "ro_full", "failed"):
            states.add_metric([state], float(stat.state == state))
        yield states
        yield from _compaction_metrics(stat)
        yield from _scrub_metrics(scrub)


def _compaction_metrics(stat: StoreStat) -> Iterable[Metric]:
    runs = CounterMetricFamily("speedy_compactions", "Compactions since the start", labels=["result"])
    runs.add_metric(["done"], stat.compactions)
    runs.add_metric(["failed"], stat.compaction_failures)
    yield runs
    sizes = CounterMetricFamily(
        "speedy_compaction_bytes", "Written by compaction, and given back by it on balance", labels=["kind"]
    )
    sizes.add_metric(["written"], stat.compacted_bytes)
    sizes.add_metric(["given_back"], stat.given_back_bytes)
    yield sizes


def _scrub_metrics(scrub: ScrubStatus) -> Iterable[Metric]:
    yield CounterMetricFamily("speedy_scrub_rounds", "Rounds of the scrub that have ended, ever", scrub.rounds)
    yield GaugeMetricFamily(
        "speedy_scrub_running", "1 while a round of the scrub is under way", float(scrub.state == "running")
    )
    yield GaugeMetricFamily(
        "speedy_scrub_damaged", "Places known to be damaged and not yet put again or deleted", scrub.known_damaged
    )
    sizes = GaugeMetricFamily("speedy_scrub_round_bytes", "Live bytes of the round", labels=["kind"])
    sizes.add_metric(["checked"], scrub.checked_bytes)
    sizes.add_metric(["total"], scrub.total_bytes)
    yield sizes
    yield GaugeMetricFamily(
        "speedy_scrub_last_end_timestamp_seconds", "When the last whole round of the scrub ended", scrub.ended_s
    )
