"""Which group takes the next chunk.

Whole groups only: as many members as the group is meant to have, all of them rw, each with room for the chunk. Two of
them are drawn at random, weighted by their free bytes, and the one with fewer bytes in flight from here takes the chunk
(the power of two choices: M. Mitzenmacher, 2001). So a new empty group fills faster without being flooded, and many
ImageServers that look at the same table do not all run to the same group.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from chunkmaster.interface import Group, GroupTable
from imageserver.members import MemberBook
from wire.errors import NoGroupAvailable, SpeedyError, StorageFull

#: draws before all groups are looked at one by one; only when most groups are tried, avoided or too full does it come
#: to that
DRAWS_MAX = 8


@dataclass(frozen=True, slots=True)
class _Candidates:
    """The whole groups of one table, worked out once per table: with 1,000 groups that is too long for every chunk."""

    table: GroupTable
    groups: tuple[Group, ...]
    free_bytes: tuple[int, ...]
    cumulative_bytes: tuple[int, ...]


class Placement:
    """Thread-safe. Raises what stands in the way when no group can take a chunk."""

    def __init__(self, members: MemberBook, random: Random | None = None) -> None:
        self._members = members
        self._random = random or Random()  # noqa: S311 - spreads load, keeps no secret
        self._lock = threading.Lock()
        self._in_flight_bytes: dict[int, int] = {}
        self._candidates: _Candidates | None = None

    def choose(self, table: GroupTable, payload_bytes: int, tried: Collection[int] = ()) -> Group:
        """A whole group with room for `payload_bytes` that is not among `tried` (group ids).

        Groups with a member that failed here a moment ago are taken only when there is no other.
        Raises StorageFull (every group is full) or NoGroupAvailable.
        """
        candidates = self._candidates_of(table)
        chosen = self._draw(candidates, payload_bytes, tried)
        if chosen is None:
            chosen = self._search(candidates, payload_bytes, tried)
        if chosen is None:
            raise why_no_group(table, payload_bytes)
        return chosen

    @contextmanager
    def writing(self, group_id: int, payload_bytes: int) -> Generator[None, None, None]:
        """Count `payload_bytes` as in flight to the group for as long as the block runs."""
        self._add_in_flight(group_id, payload_bytes)
        try:
            yield
        finally:
            self._add_in_flight(group_id, -payload_bytes)

    def _draw(self, candidates: _Candidates, payload_bytes: int, tried: Collection[int]) -> Group | None:
        if len(candidates.groups) <= 1:
            return None
        first: Group | None = None
        for index in self._random.choices(
            range(len(candidates.groups)), cum_weights=candidates.cumulative_bytes, k=DRAWS_MAX
        ):
            group = candidates.groups[index]
            if group.group_id in tried or candidates.free_bytes[index] < payload_bytes or self._avoided(group):
                continue
            if first is None:
                first = group
            elif group is not first:
                return min(first, group, key=self._load)
        return first

    def _search(self, candidates: _Candidates, payload_bytes: int, tried: Collection[int]) -> Group | None:
        left = [
            group
            for group, free_bytes in zip(candidates.groups, candidates.free_bytes, strict=True)
            if group.group_id not in tried and free_bytes >= payload_bytes
        ]
        return min(left, key=lambda group: (self._avoided(group), self._load(group)), default=None)

    def _load(self, group: Group) -> int:
        return self._in_flight_bytes.get(group.group_id, 0)

    def _avoided(self, group: Group) -> bool:
        return any(self._members.avoided(member.server_id) for member in group.members)

    def _add_in_flight(self, group_id: int, payload_bytes: int) -> None:
        with self._lock:
            bytes_now = self._in_flight_bytes.get(group_id, 0) + payload_bytes
            assert bytes_now >= 0
            if bytes_now:
                self._in_flight_bytes[group_id] = bytes_now
            else:
                self._in_flight_bytes.pop(group_id, None)

    def _candidates_of(self, table: GroupTable) -> _Candidates:
        candidates = self._candidates
        if candidates is None or candidates.table is not table:
            whole = [group for group in table.groups if is_whole(group)]
            free_bytes = tuple(min(member.free_bytes for member in group.members) for group in whole)
            # A weight of at least 1, so that groups which tell 0 free bytes can still be drawn for empty chunks.
            cumulative = tuple(accumulate(max(1, free) for free in free_bytes))
            candidates = self._candidates = _Candidates(table, tuple(whole), free_bytes, cumulative)
        return candidates


def is_whole(group: Group) -> bool:
    """All members that the group is meant to have are there and take writes."""
    return len(group.members) >= max(1, group.replicas) and all(member.state == "rw" for member in group.members)


def is_full(group: Group, payload_bytes: int = 1) -> bool:
    """All members live, but no room for `payload_bytes` on one of them."""
    if len(group.members) < max(1, group.replicas) or any(m.state not in ("rw", "ro_full") for m in group.members):
        return False
    return any(m.state == "ro_full" or m.free_bytes < payload_bytes for m in group.members)


def why_no_group(table: GroupTable, payload_bytes: int) -> SpeedyError:
    """The error that tells best why no group of `table` takes a chunk of this size."""
    if not table.groups:
        return NoGroupAvailable("the cluster has no groups yet")
    full = sum(is_full(group, payload_bytes) for group in table.groups)
    if full == len(table.groups):
        free_bytes = max(min((m.free_bytes for m in group.members), default=0) for group in table.groups)
        return StorageFull(
            f"all {full} groups are full: {free_bytes} bytes are free above the reserve (chunkserver.reserve_bytes)",
            groups=full,
        )
    unhealthy = sum(not is_whole(group) and not is_full(group, payload_bytes) for group in table.groups)
    return NoGroupAvailable(
        f"no group can take {payload_bytes} bytes: of {len(table.groups)} groups {unhealthy} have a member that is not"
        f" healthy, {full} are full, {len(table.groups) - unhealthy - full} failed just now"
    )
