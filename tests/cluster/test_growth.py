"""Adding a group to a running cluster: used within seconds, and nothing that is there moves or restarts."""

from __future__ import annotations

import threading
import time

from speedy.cluster import LocalCluster
from speedy.processes import ProcessIdentity
from tests.cluster.inspection import all_chunks
from tests.cluster.ledger import Clients, Ledger, verify

REPOSITORY = "grow/while-running"
USED_WITHIN_S = 5.0


def test_a_group_added_while_pushes_run_takes_chunks_within_seconds_and_nothing_else_changes(
    cluster: LocalCluster,
) -> None:
    plan = cluster.plan()
    urls = [registry.url for registry in plan.of("registry")]
    ledger = Ledger()
    clients = Clients(REPOSITORY, lambda: urls[len(ledger.attempted) % len(urls)], ledger)
    try:
        _wait_for(lambda: len(ledger.tags) >= 3)
        chunks_before = {server.name: all_chunks(cluster, server) for server in plan.of("chunkserver")}
        processes_before = _processes(cluster, plan_names := [process.name for process in plan.processes])
        assert all(chunks_before.values())
        adding = threading.Thread(target=cluster.add_group, kwargs={"timeout_s": 120.0})
        adding.start()
        number = len(plan.group_members()) + 1
        _wait_for(lambda: len(cluster.group_table().groups) == number, timeout_s=60)
        added_s = time.monotonic()
        members = cluster.plan().group_members()[number]
        _wait_for(lambda: bool(all_chunks(cluster, members[0])))
        assert time.monotonic() - added_s < USED_WITHIN_S
        adding.join(120)
        assert not adding.is_alive()
        _wait_for(lambda: all(all_chunks(cluster, member) for member in members))
    finally:
        clients.stop()
    assert clients.failures == []
    assert _processes(cluster, plan_names) == processes_before
    for server in plan.of("chunkserver"):
        now = all_chunks(cluster, server)
        assert {fid: now[fid] for fid in chunks_before[server.name]} == chunks_before[server.name]
    verify(urls[0], REPOSITORY, ledger)


def test_up_again_starts_nothing(cluster: LocalCluster) -> None:
    names = [process.name for process in cluster.plan().processes]
    before = _processes(cluster, names)
    cluster.up()
    assert _processes(cluster, names) == before


def _processes(cluster: LocalCluster, names: list[str]) -> dict[str, ProcessIdentity | None]:
    found = {name: cluster.identity(name) for name in names}
    assert None not in found.values()
    return found


def _wait_for(condition: object, timeout_s: float = 30.0) -> None:
    assert callable(condition)
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "the awaited condition did not come"
        time.sleep(0.05)
