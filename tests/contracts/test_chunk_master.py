"""The promises of chunkmaster.interface.ChunkMaster, held by every implementation.

One master serves all tests of this file, so every test takes server ids and addresses of its own from `servers`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from chunkmaster import migrations
from chunkmaster.client import HttpChunkMaster
from chunkmaster.core import LocalChunkMaster
from chunkmaster.interface import ChunkMaster, Group, GroupTable, Heartbeat, Member
from chunkserver.interface import StoreStat
from tests.chunkmaster.rooms import DOWN_AFTER_S, KEY
from tests.postgres import PostgresServer
from tests.wire.serving import serving, wait_until
from wire.database import create_engine
from wire.errors import BadRequest, Conflict, GroupNotFound, NotFound

WAIT_S = 20.0
GIB = 1 << 30
_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=["sqlite", "postgres", "http"])
def master(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChunkMaster]:
    directory: Path = tmp_path_factory.mktemp("master")
    sqlite_url = f"sqlite:///{directory}/master.db"
    if request.param == "sqlite":
        yield from local_master(sqlite_url)
    elif request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        with server.database() as url:
            yield from local_master(url)
    else:
        KEY.save(directory / "key")
        arguments = {"database_url": sqlite_url, "key_file": str(directory / "key")}
        with serving("tests.chunkmaster.rooms:build_master", arguments) as running:
            client = HttpChunkMaster([running.url], KEY)
            yield client
            client.close()


def local_master(url: str) -> Iterator[ChunkMaster]:
    engine = create_engine(url)
    migrations.upgrade(engine)
    yield LocalChunkMaster(engine, down_after_s=DOWN_AFTER_S)
    engine.dispose()


Servers = Callable[[int], tuple[tuple[str, str], ...]]


@pytest.fixture
def servers() -> Servers:
    """servers(3): three (server id, url) pairs that nobody had before."""

    def fresh(count: int) -> tuple[tuple[str, str], ...]:
        return tuple((f"cs-{n}", f"http://10.0.{n // 250}.{n % 250}:5400") for n in itertools.islice(_numbers, count))

    return fresh


def beat(server: tuple[str, str], *, free_bytes: int = 80 * GIB, state: str = "rw", fid_max: int = 0) -> Heartbeat:
    stat = StoreStat(
        server_id=server[0],
        state=state,  # type: ignore[arg-type]
        chunks=7,
        live_bytes=1000,
        dead_bytes=10,
        free_bytes=free_bytes,
        total_bytes=100 * GIB,
        volumes=1,
        volumes_failed=0,
        fid_max=fid_max,
    )
    return Heartbeat(server[0], server[1], stat)


def table_of(master: ChunkMaster) -> GroupTable:
    table = master.group_table()
    assert table is not None
    return table


def member_of(master: ChunkMaster, server: tuple[str, str]) -> Member:
    members = [m for group in table_of(master).groups for m in group.members if m.server_id == server[0]]
    assert len(members) == 1
    return members[0]


def test_an_added_group_stands_in_the_table_with_new_members(master: ChunkMaster, servers: Servers) -> None:
    before = table_of(master)
    pairs = servers(3)
    group = master.add_group(pairs)
    assert group.replicas == 3
    assert [(m.server_id, m.url, m.state, m.heartbeat_age_s) for m in group.members] == [
        (server_id, url, "new", None) for server_id, url in pairs
    ]
    after = table_of(master)
    assert after.version > before.version
    assert after.cluster_id == before.cluster_id
    assert {g.group_id for g in after.groups} - {g.group_id for g in before.groups} == {group.group_id}
    assert after.groups[-1] == group


def test_what_operators_must_know_of_a_member_stands_in_the_table(master: ChunkMaster, servers: Servers) -> None:
    (server,) = servers(1)
    master.add_group((server,))
    told = beat(server)
    master.heartbeat(told)
    assert (member_of(master, server).bad_volumes, member_of(master, server).damaged) == (0, 0)
    stat = replace(told.stat, volumes_failed=1, volumes_quarantined=2, damaged=3, scrubbed_s=4.5, disks_failed=6)
    master.heartbeat(replace(told, stat=stat))
    member = member_of(master, server)
    assert (member.bad_volumes, member.damaged, member.scrubbed_s, member.bad_disks) == (3, 3, 4.5, 6)


def test_the_same_members_again_are_the_same_group(master: ChunkMaster, servers: Servers) -> None:
    pairs = servers(3)
    group = master.add_group(pairs)
    version = table_of(master).version
    assert master.add_group(pairs) == group
    assert master.add_group(tuple(reversed(pairs))) == group
    assert table_of(master).version == version


def test_a_server_belongs_to_one_group(master: ChunkMaster, servers: Servers) -> None:
    pairs, others = servers(2), servers(2)
    master.add_group(pairs)
    before = table_of(master)
    refused = [
        (pairs[0], others[0]),  # one of them belongs elsewhere
        pairs[:1],  # fewer than the group has
        (*pairs, others[0]),  # more
        ((others[0][0], pairs[0][1]),),  # another server at an address that is taken
    ]
    for members in refused:
        with pytest.raises(Conflict):
            master.add_group(members)
    assert master.group_table(before.version) is None


def test_malformed_members_are_refused(master: ChunkMaster, servers: Servers) -> None:
    (good, other) = servers(2)
    before = table_of(master).version
    refused: list[tuple[tuple[str, str], ...]] = [
        (),
        (good, good),
        (good, (good[0], other[1])),
        (good, (other[0], good[1])),
        (("", good[1]),),
        (("a b", good[1]),),
        (("x" * 65, good[1]),),
        ((good[0], ""),),
        ((good[0], "10.0.0.1:5400"),),
        ((good[0], "ftp://10.0.0.1:5400"),),
        ((good[0], "http://"),),
        ((good[0], "http://10.0.0.1:5400/path"),),
        ((good[0], "http://10.0.0.1:5400?q=1"),),
        ((good[0], "http://user@10.0.0.1:5400"),),
        ((good[0], "http://10.0.0.1:99999"),),
        ((good[0], "local:another"),),
        servers(17),
    ]
    for members in refused:
        with pytest.raises(BadRequest):
            master.add_group(members)
    assert master.group_table(before) is None


def test_a_member_in_process_has_a_local_address(master: ChunkMaster, servers: Servers) -> None:
    server_id = servers(1)[0][0]
    group = master.add_group(((server_id, f"local:{server_id}"),))
    assert group.members[0].url == f"local:{server_id}"


def test_a_heartbeat_makes_a_member_take_writes(master: ChunkMaster, servers: Servers) -> None:
    pairs = servers(2)
    master.add_group(pairs)
    before = table_of(master).version
    table = master.heartbeat(beat(pairs[0]))
    assert table is not None
    assert table.version > before
    member = member_of(master, pairs[0])
    assert (member.state, member.free_bytes, member.total_bytes, member.chunks) == ("rw", 80 * GIB, 100 * GIB, 7)
    assert member.heartbeat_age_s is not None
    assert 0 <= member.heartbeat_age_s < 10
    assert member_of(master, pairs[1]).state == "new"


def keep_alive(master: ChunkMaster, *alive: tuple[str, str]) -> int:
    """Beats for these servers, and the version that the table has come to rest at."""
    versions = [-1]

    def settled() -> bool:
        for server in alive:
            master.heartbeat(beat(server))
        table = table_of(master)
        versions.append(table.version)
        # members of earlier tests that fall silent must all have been counted as down, in this very version
        states = {m.state for g in table.groups for m in g.members if (m.server_id, m.url) not in alive}
        return versions[-1] == versions[-2] and states <= {"new", "down"}

    wait_until(settled, WAIT_S, "a table at rest")
    return versions[-1]


def test_a_table_that_did_not_change_is_not_sent_again(master: ChunkMaster, servers: Servers) -> None:
    (server,) = servers(1)
    master.add_group((server,))

    def answers() -> tuple[int, set[GroupTable | None]]:
        """Under a version, what it answers while the server keeps beating; in less time than makes it count as down."""
        for _ in range(20):
            version = keep_alive(master, server)
            started_s = time.monotonic()
            seen: set[GroupTable | None] = set()
            for n in range(5):
                beaten = replace(beat(server, free_bytes=80 * GIB - n), known_version=version)
                seen |= {master.heartbeat(beaten), master.group_table(version)}
            if time.monotonic() - started_s < DOWN_AFTER_S / 2:
                return version, seen
        raise AssertionError("this machine pauses too often for this test")

    version, seen = answers()
    assert seen == {None}
    assert table_of(master).version == version
    answered = master.heartbeat(replace(beat(server), known_version=version - 1))
    assert answered is not None
    assert answered.version == version


def test_what_placement_depends_on_makes_a_new_version(master: ChunkMaster, servers: Servers) -> None:
    (server,) = servers(1)
    master.add_group((server,))
    version = keep_alive(master, server)
    for changed in (
        beat(server, state="ro_full"),
        beat(server, state="failed"),
        beat(server, state="rw"),
        beat(server, free_bytes=70 * GIB),
    ):
        table = master.heartbeat(replace(changed, known_version=version))
        assert table is not None
        assert table.version > version
        version = table.version
        member = member_of(master, server)
        assert (member.state, member.free_bytes) == (changed.stat.state, changed.stat.free_bytes)


def test_a_server_of_no_group_is_refused(master: ChunkMaster, servers: Servers) -> None:
    with pytest.raises(GroupNotFound):
        master.heartbeat(beat(servers(1)[0]))


def test_a_malformed_report_is_refused(master: ChunkMaster, servers: Servers) -> None:
    (server,) = servers(1)
    master.add_group((server,))
    with pytest.raises(BadRequest):
        master.heartbeat(replace(beat(server), url="nowhere"))
    assert member_of(master, server).state == "new"


def test_a_data_directory_of_another_cluster_is_refused(master: ChunkMaster, servers: Servers) -> None:
    (server,) = servers(1)
    master.add_group((server,))
    own = table_of(master).cluster_id
    other = "00000000-0000-4000-8000-000000000000"
    with pytest.raises(Conflict, match=own):
        master.heartbeat(replace(beat(server), cluster_id=other))
    assert member_of(master, server).state == "new"
    master.heartbeat(replace(beat(server), cluster_id=own))
    assert member_of(master, server).state == "rw"


def test_two_servers_under_one_id_are_told_apart_and_a_moved_one_is_followed(
    master: ChunkMaster, servers: Servers
) -> None:
    (server, twin) = servers(2)
    master.add_group((server,))
    master.heartbeat(beat(server))
    moved = (server[0], twin[1])
    with pytest.raises(Conflict):
        master.heartbeat(beat(moved))
    assert member_of(master, server).url == server[1]
    version = table_of(master).version

    def accepted() -> bool:
        try:
            master.heartbeat(beat(moved))
        except Conflict:
            return False
        return True

    wait_until(accepted, WAIT_S, "the end of the old address")
    assert member_of(master, server).url == twin[1]
    assert table_of(master).version > version


def test_a_silent_member_is_down_and_comes_back(master: ChunkMaster, servers: Servers) -> None:
    (talks, silent) = servers(2)
    master.add_group((talks, silent))
    master.heartbeat(beat(silent))
    version = table_of(master).version

    def fell_down() -> bool:
        master.heartbeat(beat(talks))
        return member_of(master, silent).state == "down"

    wait_until(fell_down, WAIT_S, "the silent member's fall")
    assert member_of(master, talks).state == "rw"
    assert table_of(master).version > version
    version = table_of(master).version
    master.heartbeat(beat(silent))
    assert member_of(master, silent).state == "rw"
    assert table_of(master).version > version


def test_ranges_of_fids_never_overlap(master: ChunkMaster) -> None:
    first = master.reserve_fids("front-1", 1)
    second = master.reserve_fids("front-1", 1_000_000)
    third = master.reserve_fids("front-2", 10)
    assert first.last - first.first == 0
    assert second.last - second.first == 999_999
    assert 0 < first.first <= first.last < second.first <= second.last < third.first
    assert (first.owner, third.owner) == ("front-1", "front-2")
    assert len({first.range_id, second.range_id, third.range_id}) == 3


def test_ranges_reserved_at_once_never_overlap(master: ChunkMaster) -> None:
    with ThreadPoolExecutor(8) as pool:
        ranges = list(pool.map(lambda n: master.reserve_fids(f"front-{n % 8}", 1 + n % 5), range(64)))
    taken = [fid for found in ranges for fid in range(found.first, found.last + 1)]
    assert len(taken) == len(set(taken)) == sum(1 + n % 5 for n in range(64))


def test_fids_are_above_what_chunkservers_have_seen(master: ChunkMaster, servers: Servers) -> None:
    (server,) = servers(1)
    master.add_group((server,))
    seen = master.reserve_fids("front-1", 1).last + 5_000_000
    master.heartbeat(beat(server, fid_max=seen))
    assert master.reserve_fids("front-1", 10).first > seen


@pytest.mark.parametrize("count", [0, -1, 1_000_001])
def test_a_range_has_a_bounded_size(master: ChunkMaster, count: int) -> None:
    with pytest.raises(BadRequest):
        master.reserve_fids("front-1", count)


@pytest.mark.parametrize("owner", ["", "a b", "x" * 129, "line\n"])
def test_a_range_has_a_proper_owner(master: ChunkMaster, owner: str) -> None:
    with pytest.raises(BadRequest):
        master.reserve_fids(owner, 1)


def test_a_range_can_be_closed_again_and_again(master: ChunkMaster) -> None:
    reserved = master.reserve_fids("front-1", 10)
    master.close_fid_range(reserved.range_id)
    master.close_fid_range(reserved.range_id)
    assert master.reserve_fids("front-1", 10).first > reserved.last


def test_an_unknown_range_cannot_be_closed(master: ChunkMaster) -> None:
    unknown = master.reserve_fids("front-1", 1).range_id + 1000
    for range_id in (unknown, 0, 2**63, 2**64):
        with pytest.raises(NotFound):
            master.close_fid_range(range_id)


def test_groups_added_at_once_are_different_groups(master: ChunkMaster, servers: Servers) -> None:
    members = [servers(2) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        groups: list[Group] = list(pool.map(master.add_group, members))
    assert len({group.group_id for group in groups}) == 8
    assert {group.group_id for group in groups} <= {group.group_id for group in table_of(master).groups}
