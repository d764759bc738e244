"""Contract of the ChunkMaster: which groups exist, who is in them, how they are, and who may use which fids.

Satisfied by chunkmaster.core.LocalChunkMaster (over SQLAlchemy: SQLite or PostgreSQL) and
chunkmaster.client.HttpChunkMaster; both pass tests/contracts/test_chunk_master.py.

A group is a fixed set of ChunkServers (members) that all hold the same chunks. Groups and members are rows; health
comes from heartbeats. `GroupTable.version` grows whenever anything in the table changes that placement or reading
depends on (group added, member address, member state, a good part of a member's space used or freed), so a client may
ask with the version it has and get None when nothing changed.

Every method raises BadRequest for values that are out of range or of another form. What reserves, closes or adds, and
the first report of a server, need the database, and raise Unavailable, DeadlineExceeded or Overloaded when that does
not answer in time; the table is served from memory meanwhile, and missing only where it was never read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from chunkserver.interface import StoreStat

#: rw: takes writes and reads · ro_full: reads and deletes only (no space) · failed: its disk failed, reads only
#: down: no heartbeat for `down_after_s` · new: never heard of
MemberState = Literal["new", "rw", "ro_full", "failed", "down"]

#: members of a group, and fids that one call may reserve
REPLICAS_MAX = 16
FIDS_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Member:
    """One ChunkServer of a group. `url` is its base address ("http://host:port", or "local:<server_id>" in process).

    The last four are for operators, as it has reported them: volumes that failed or are quarantined, places known to
    be damaged, when it last ended a round of its scrub (Unix time; 0.0: never, or not reported), and disks that failed.
    """

    server_id: str
    url: str
    state: MemberState
    free_bytes: int
    total_bytes: int
    chunks: int
    heartbeat_age_s: float | None
    bad_volumes: int = 0
    damaged: int = 0
    scrubbed_s: float = 0.0
    bad_disks: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """`group_id` is a small positive number; `replicas` is the number of members it is meant to have."""

    group_id: int
    replicas: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class GroupTable:
    cluster_id: str
    version: int
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class FidRange:
    """fids first..last (inclusive) belong to `owner` alone until the range is closed. Never handed out twice."""

    range_id: int
    first: int
    last: int
    owner: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a ChunkServer tells every `heartbeat_s`. A server id that no group knows is refused (GroupNotFound).

    `cluster_id` is the cluster that its data directory belongs to (a master of another one refuses it); `known_version`
    the group table it has, so that the answer carries a table only when there is a newer one.
    """

    server_id: str
    url: str
    stat: StoreStat
    cluster_id: str | None = None
    known_version: int | None = None


class ChunkMaster(Protocol):
    """All methods are thread-safe; every one is harmless to repeat, but `reserve_fids` gives a new range each time."""

    def add_group(self, members: tuple[tuple[str, str], ...]) -> Group:
        """Add a group of (server_id, url) members; takes part in placement as soon as its members are healthy.

        The same members again return the existing group. Raises BadRequest (no members, more than REPLICAS_MAX, a
        malformed or repeated id or url), Conflict (a server or an address that belongs to another group).
        """
        ...

    def group_table(self, known_version: int | None = None) -> GroupTable | None:
        """The whole table, or None when `known_version` is still the current one."""
        ...

    def reserve_fids(self, owner: str, count: int) -> FidRange:
        """A fresh open range of `count` (1..FIDS_MAX) fids for `owner` (up to 128 printable characters), above
        all ever handed out or reported by a ChunkServer. A master that has just started first hears its members, for at
        most `down_after_s`. Raises Unavailable also when no fids are left."""
        ...

    def close_fid_range(self, range_id: int) -> None:
        """Retire a range: none of its unused fids will be used any more. Raises NotFound for an unknown range."""
        ...

    def heartbeat(self, beat: Heartbeat) -> GroupTable | None:
        """Take a ChunkServer's report. Answers the group table (ChunkServers hand it out when no master is up), or None
        when `beat.known_version` is still the current one.

        Raises GroupNotFound for an unknown server id, Conflict for a data directory of another cluster, or when another
        server already reports under this id from another url within the last `down_after_s`.
        """
        ...
