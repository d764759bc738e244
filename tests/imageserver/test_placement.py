"""Which group takes a chunk."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from chunkmaster.interface import Group, GroupTable, Member, MemberState
from imageserver.members import MemberBook
from imageserver.placement import Placement
from tests.imageserver.cluster import memory_cluster
from wire.errors import NoGroupAvailable, StorageFull


def member(server_id: str, free_bytes: int = 1000, state: MemberState = "rw") -> Member:
    return Member(server_id, f"local:{server_id}", state, free_bytes, 10_000, 0, 0.0)


def table(*free_bytes: int) -> GroupTable:
    groups = tuple(Group(i + 1, 1, (member(f"s{i + 1}", free),)) for i, free in enumerate(free_bytes))
    return GroupTable("c", 1, groups)


def placement() -> tuple[Placement, MemberBook]:
    book = MemberBook(memory_cluster().open_store, lambda: 0.0)
    return Placement(book, Random(7)), book


def test_groups_with_more_free_bytes_take_more_chunks() -> None:
    place, _ = placement()
    groups = table(1_000_000, 3_000_000)
    drawn = Counter(place.choose(groups, 100).group_id for _ in range(4000))
    assert 0.2 < drawn[1] / 4000 < 0.8
    assert drawn[2] > drawn[1]


def test_of_two_groups_the_one_with_less_in_flight_is_taken() -> None:
    place, _ = placement()
    groups = table(1_000_000, 1_000_000)
    with place.writing(1, 500):
        drawn = Counter(place.choose(groups, 100).group_id for _ in range(500))
    assert drawn[2] > 450
    assert place.choose(groups, 100, tried={2}).group_id == 1


def test_bytes_in_flight_are_given_back_when_a_write_raises() -> None:
    place, _ = placement()

    def fail() -> None:
        with place.writing(1, 500):
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        fail()
    drawn = Counter(place.choose(table(1_000_000, 1_000_000), 100).group_id for _ in range(500))
    assert drawn[1] > 150


def test_a_group_with_a_missing_or_unhealthy_member_takes_nothing() -> None:
    place, _ = placement()
    states: tuple[MemberState, ...] = ("new", "ro_full", "failed", "down")
    groups = [Group(i + 1, 2, (member(f"a{i}"), member(f"b{i}", state=state))) for i, state in enumerate(states)]
    groups.append(Group(9, 3, (member("c1"), member("c2"))))
    whole = Group(10, 2, (member("d1"), member("d2")))
    for _ in range(50):
        assert place.choose(GroupTable("c", 1, (*groups, whole)), 10).group_id == 10
    with pytest.raises(NoGroupAvailable):
        place.choose(GroupTable("c", 1, tuple(groups)), 10)


def test_a_group_without_room_for_the_payload_is_passed_over() -> None:
    place, _ = placement()
    for _ in range(50):
        assert place.choose(table(50, 100, 99), 100).group_id == 2
    with pytest.raises(StorageFull):
        place.choose(table(50, 60), 100)


def test_a_group_that_failed_a_moment_ago_is_taken_only_when_there_is_no_other() -> None:
    place, book = placement()
    groups = table(1_000_000, 10_000)
    book.failed("s1")
    assert {place.choose(groups, 10).group_id for _ in range(100)} == {2}
    assert place.choose(groups, 10, tried={2}).group_id == 1
    book.failed("s2")
    assert place.choose(groups, 10).group_id in (1, 2)


def test_a_cluster_without_groups_says_so() -> None:
    place, _ = placement()
    with pytest.raises(NoGroupAvailable, match="no groups yet"):
        place.choose(GroupTable("c", 1, ()), 10)


def test_a_thousand_groups_are_drawn_from_quickly_and_all_of_them() -> None:
    place, _ = placement()
    groups = table(*[1_000_000] * 1000)
    drawn = Counter(place.choose(groups, 10).group_id for _ in range(20_000))
    assert len(drawn) == 1000
