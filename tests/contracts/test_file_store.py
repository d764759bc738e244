"""What metaserver.interface.FileStore promises, held by every implementation: local on SQLite and PostgreSQL, over
HTTP."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from metaserver.interface import FileInfo, Fragment, MetaStore
from tests.metaserver.stores import cut, dead_fids, fids_of
from wire.errors import BadRequest, ChunkDead, Conflict, FileExists, FileNotFound, UploadConflict

#: byte order is no alphabet: digits before capitals before small letters, and "-" and "." before "/"
NAMES = [
    "B",
    "Z9",
    "a",
    "a-b",
    "a.b",
    "a/b",
    "a/b-c",
    "a/b.c",
    "a/b/c",
    "a/b/ä",
    "a/bc",
    "a0",
    "ab",
    "z",
    "é",
    "日本",
    "😀",
]


@pytest.fixture
def store(meta_store: MetaStore) -> MetaStore:
    return meta_store


def make(store: MetaStore, path: str, *lengths: int) -> tuple[int, tuple[Fragment, ...]]:
    file_id = store.create_file()
    fragments = cut(*lengths)
    store.append_fragments(file_id, 0, fragments)
    store.commit_file(file_id, path)
    return file_id, fragments


def paths(infos: list[FileInfo]) -> list[str]:
    return [info.path for info in infos]


# -- open files -------------------------------------------------------------------------------------------------------


def test_a_new_file_is_empty_and_seen_by_nobody(store: MetaStore) -> None:
    file_id = store.create_file()
    assert store.fragments(file_id) == ()
    assert store.list_files("") == []


def test_fragments_come_back_in_order_with_every_value(store: MetaStore) -> None:
    file_id = store.create_file()
    extremes = Fragment(10, 2**32 - 1, 2**63 - 1, 2**31 - 1, 2**32 - 1)
    first = cut(4, 6)
    assert store.append_fragments(file_id, 0, first) == 10
    assert store.append_fragments(file_id, 10, [extremes]) == 10 + 2**32 - 1
    assert store.fragments(file_id) == (*first, extremes)


def test_an_append_at_another_size_is_refused_with_the_real_one(store: MetaStore) -> None:
    file_id = store.create_file()
    store.append_fragments(file_id, 0, cut(5))
    for wrong in (0, 4, 6):
        with pytest.raises(UploadConflict) as caught:
            store.append_fragments(file_id, wrong, cut(3, offset=wrong))
        assert caught.value.offset == 5
    assert len(store.fragments(file_id)) == 1


def test_a_repeated_append_succeeds_and_changes_nothing(store: MetaStore) -> None:
    file_id = store.create_file()
    first, second = cut(5, 5), cut(7, offset=10)
    for _ in range(2):
        assert store.append_fragments(file_id, 0, first) == 10
    assert store.append_fragments(file_id, 10, second) == 17
    assert store.append_fragments(file_id, 0, first) == 10  # also when others followed
    assert store.fragments(file_id) == first + second


def test_a_repeat_with_any_other_value_is_no_repeat(store: MetaStore) -> None:
    file_id = store.create_file()
    (fragment,) = cut(5)
    store.append_fragments(file_id, 0, [fragment])
    others = [replace(fragment, fid=fragment.fid + 10_000), replace(fragment, crc32c=fragment.crc32c ^ 1)]
    for other in [*others, replace(fragment, group_id=9), replace(fragment, length=4)]:
        with pytest.raises(UploadConflict):
            store.append_fragments(file_id, 0, [other])
    assert store.fragments(file_id) == (fragment,)


def test_an_append_of_nothing_changes_nothing(store: MetaStore) -> None:
    file_id = store.create_file()
    assert store.append_fragments(file_id, 0, []) == 0
    with pytest.raises(UploadConflict):
        store.append_fragments(file_id, 1, [])


@pytest.mark.parametrize(
    "fragments",
    [
        [Fragment(1, 4, 900001, 1, 0)],
        [Fragment(0, 4, 900001, 1, 0), Fragment(5, 4, 900002, 1, 0)],
        [Fragment(0, 4, 900001, 1, 0), Fragment(3, 4, 900002, 1, 0)],
        [Fragment(0, 0, 900001, 1, 0)],
        [Fragment(0, -1, 900001, 1, 0)],
        [Fragment(0, 4, 2**63, 1, 0)],
        [Fragment(0, 4, 0, 1, 0)],  # no chunk has this fid
        [Fragment(0, 4, -1, 1, 0)],
        [Fragment(0, 4, 900001, 2**31, 0)],
        [Fragment(0, 4, 900001, 1, 2**32)],
        [Fragment(0, 4, 900001, 1, 0), Fragment(4, 4, 900001, 1, 0)],
    ],
    ids=["late", "gap", "overlap", "empty", "negative", "fid", "fid=0", "fid<0", "group", "crc", "twice"],
)
def test_fragments_that_do_not_join_up_are_refused(store: MetaStore, fragments: list[Fragment]) -> None:
    file_id = store.create_file()
    with pytest.raises(BadRequest):
        store.append_fragments(file_id, 0, fragments)
    assert store.fragments(file_id) == ()


def test_a_chunk_belongs_to_one_file_only(store: MetaStore) -> None:
    _, fragments = make(store, "mine", 5)
    other = store.create_file()
    with pytest.raises(Conflict):
        store.append_fragments(other, 0, fragments)
    assert store.fragments(other) == ()


def test_a_dead_chunk_never_becomes_part_of_a_file_again(store: MetaStore) -> None:
    _, fragments = make(store, "gone", 5)
    store.delete_file("gone")
    other = store.create_file()
    with pytest.raises(ChunkDead):
        store.append_fragments(other, 0, fragments)
    assert dead_fids(store) == fids_of(fragments)


def test_of_two_appends_at_one_place_one_wins(store: MetaStore) -> None:
    file_id = store.create_file()
    attempts = [cut(5) for _ in range(6)]

    def append(fragments: tuple[Fragment, ...]) -> str:
        try:
            return f"has {store.append_fragments(file_id, 0, fragments)}"
        except UploadConflict as conflict:
            return f"conflict at {conflict.offset}"

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(append, attempts))
    assert sorted(answers) == ["conflict at 5"] * 5 + ["has 5"]
    assert store.fragments(file_id) == attempts[answers.index("has 5")]


def test_thousands_of_fragments_fit_one_append(store: MetaStore) -> None:
    file_id = store.create_file()
    fragments = cut(*[4096] * 3000)
    assert store.append_fragments(file_id, 0, fragments) == 3000 * 4096
    assert store.append_fragments(file_id, 0, fragments) == 3000 * 4096
    assert store.fragments(file_id) == fragments
    assert store.abandon_file(file_id)
    assert dead_fids(store) == fids_of(fragments)
    store.forget_dead_fragments([fragment.fid for fragment in fragments])
    assert dead_fids(store) == set()


def test_unknown_files_are_not_found(store: MetaStore) -> None:
    missing = store.create_file() + 1000
    with pytest.raises(FileNotFound):
        store.append_fragments(missing, 0, cut(1))
    with pytest.raises(FileNotFound):
        store.commit_file(missing, "x")
    with pytest.raises(FileNotFound):
        store.fragments(missing)
    with pytest.raises(FileNotFound):
        store.stat("x")
    with pytest.raises(FileNotFound):
        store.move("x", "y")
    assert not store.delete_file("x")
    assert not store.abandon_file(missing)


def test_file_ids_are_never_given_again(store: MetaStore) -> None:
    seen = set()
    for _ in range(3):
        file_id = store.create_file()
        assert file_id not in seen
        seen.add(file_id)
        assert store.abandon_file(file_id)


# -- committed files --------------------------------------------------------------------------------------------------


def test_a_committed_file_has_its_path_size_and_time(store: MetaStore) -> None:
    before = time.time()
    file_id = store.create_file()
    store.append_fragments(file_id, 0, cut(3, 4))
    info = store.commit_file(file_id, "dir/file")
    assert (info.file_id, info.path, info.size) == (file_id, "dir/file", 7)
    assert before - 5 < info.created_s < time.time() + 5
    assert store.stat("dir/file") == info
    assert store.list_files("") == [info]


def test_an_empty_file_can_be_committed(store: MetaStore) -> None:
    file_id = store.create_file()
    assert store.commit_file(file_id, "empty").size == 0
    assert store.fragments(file_id) == ()
    assert store.delete_file("empty")


def test_committing_again_is_harmless_under_the_same_path_only(store: MetaStore) -> None:
    file_id = store.create_file()
    info = store.commit_file(file_id, "a")
    assert store.commit_file(file_id, "a") == info
    with pytest.raises(FileExists):
        store.commit_file(file_id, "b")
    assert paths(store.list_files("")) == ["a"]


def test_a_path_belongs_to_the_first_who_commits_it(store: MetaStore) -> None:
    first, _ = make(store, "a", 5)
    second = store.create_file()
    with pytest.raises(FileExists):
        store.commit_file(second, "a")
    assert store.stat("a").file_id == first
    store.commit_file(second, "b")


def test_of_many_commits_of_one_path_one_wins(store: MetaStore) -> None:
    def commit(file_id: int) -> bool:
        try:
            return store.commit_file(file_id, "a").file_id == file_id
        except FileExists:
            return False

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(commit, [store.create_file() for _ in range(6)])).count(True) == 1


def test_a_committed_file_never_changes(store: MetaStore) -> None:
    file_id, fragments = make(store, "a", 5)
    with pytest.raises(FileNotFound):
        store.append_fragments(file_id, 5, cut(5, offset=5))
    assert not store.abandon_file(file_id)
    assert store.fragments(file_id) == fragments
    assert store.stat("a").size == 5


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", ".", "a/../b", "a/.", "a\0b", "x" * 1025])
def test_a_path_that_is_none_is_refused(store: MetaStore, path: str) -> None:
    file_id = store.create_file()
    with pytest.raises(BadRequest):
        store.commit_file(file_id, path)
    with pytest.raises(BadRequest):
        store.stat(path)


# -- listing ----------------------------------------------------------------------------------------------------------


def test_listing_the_root_gives_every_committed_file_in_byte_order(store: MetaStore) -> None:
    for name in reversed(NAMES):
        make(store, name, 1)
    store.create_file()
    expected = sorted(NAMES, key=str.encode)
    assert expected != sorted(NAMES, key=str.lower)
    assert paths(store.list_files("")) == expected


def test_listing_a_directory_gives_itself_and_what_is_below_but_no_longer_name(store: MetaStore) -> None:
    for name in NAMES:
        make(store, name, 1)
    assert paths(store.list_files("a/b")) == ["a/b", "a/b/c", "a/b/ä"]
    assert paths(store.list_files("a")) == ["a", "a/b", "a/b-c", "a/b.c", "a/b/c", "a/b/ä", "a/bc"]
    assert paths(store.list_files("a/b/c")) == ["a/b/c"]
    assert store.list_files("a/b/c/d") == []
    assert store.list_files("nothing") == []


def test_listing_takes_no_character_for_a_wildcard(store: MetaStore) -> None:
    for name in ("a_b/c", "axb/c", "a%b/c", "a%/c"):
        make(store, name, 1)
    assert paths(store.list_files("a_b")) == ["a_b/c"]
    assert paths(store.list_files("a%")) == ["a%/c"]


@pytest.mark.parametrize("prefix", ["", "a", "a/b"])
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_of_any_size_together_give_the_whole_list(store: MetaStore, prefix: str, limit: int) -> None:
    for name in NAMES:
        make(store, name, 1)
    whole = paths(store.list_files(prefix))
    found: list[str] = []
    for _ in range(len(NAMES) + 1):
        page = paths(store.list_files(prefix, found[-1] if found else "", limit))
        assert len(page) <= limit
        found += page
        if len(page) < limit:
            break
    assert found == whole


def test_a_listing_goes_on_after_any_text(store: MetaStore) -> None:
    for name in NAMES:
        make(store, name, 1)
    assert paths(store.list_files("a/b", "a/b!")) == ["a/b/c", "a/b/ä"]
    assert paths(store.list_files("a/b", "a/b/c")) == ["a/b/ä"]
    assert paths(store.list_files("a/b", "a/b0")) == []
    assert paths(store.list_files("a/b", "A")) == ["a/b", "a/b/c", "a/b/ä"]


@pytest.mark.parametrize("limit", [0, -1, 10_001])
def test_a_limit_out_of_bounds_is_refused(store: MetaStore, limit: int) -> None:
    with pytest.raises(BadRequest):
        store.list_files("", "", limit)
    with pytest.raises(BadRequest):
        store.dead_fragments(0.0, limit)


# -- moving and deleting ----------------------------------------------------------------------------------------------


def test_moving_renames_and_keeps_everything_else(store: MetaStore) -> None:
    file_id, fragments = make(store, "a", 5, 6)
    before = store.stat("a")
    store.move("a", "b/c")
    assert store.stat("b/c") == replace(before, path="b/c")
    assert store.fragments(file_id) == fragments
    with pytest.raises(FileNotFound):
        store.stat("a")
    assert dead_fids(store) == set()


def test_moving_onto_another_file_is_refused_and_onto_itself_does_nothing(store: MetaStore) -> None:
    make(store, "a", 5)
    make(store, "b", 5)
    with pytest.raises(FileExists):
        store.move("a", "b")
    store.move("a", "a")
    assert paths(store.list_files("")) == ["a", "b"]


def test_deleting_frees_the_path_and_kills_the_chunks(store: MetaStore) -> None:
    file_id, fragments = make(store, "a", 5, 6)
    _, kept = make(store, "b", 7)
    assert store.delete_file("a")
    assert not store.delete_file("a")
    with pytest.raises(FileNotFound):
        store.fragments(file_id)
    assert dead_fids(store) == fids_of(fragments)
    assert store.fragments(store.stat("b").file_id) == kept
    again, _ = make(store, "a", 5)
    assert again > file_id


def test_abandoning_an_open_file_kills_its_chunks(store: MetaStore) -> None:
    file_id = store.create_file()
    fragments = cut(5, 6)
    store.append_fragments(file_id, 0, fragments)
    assert store.abandon_file(file_id)
    assert not store.abandon_file(file_id)
    assert dead_fids(store) == fids_of(fragments)
    with pytest.raises(FileNotFound):
        store.commit_file(file_id, "a")


# -- dead fragments ---------------------------------------------------------------------------------------------------


def test_chunks_that_are_given_up_become_dead_save_those_that_a_file_has(store: MetaStore) -> None:
    file_id = store.create_file()
    kept, unneeded = cut(5, 6), cut(7, 8, offset=11)
    store.append_fragments(file_id, 0, kept)
    for _ in range(2):
        store.give_up_fragments((*kept, *unneeded))
    store.give_up_fragments(())
    assert dead_fids(store) == fids_of(unneeded)
    assert store.fragments(file_id) == kept
    with pytest.raises(ChunkDead):
        store.append_fragments(file_id, 11, unneeded)
    with pytest.raises(BadRequest):
        store.give_up_fragments((kept[1], kept[0]))


def test_dead_fragments_come_oldest_first_as_they_were_and_in_pages(store: MetaStore) -> None:
    dead: list[Fragment] = []
    for name in "abc":
        _, fragments = make(store, name, 5, 6)
        store.delete_file(name)
        dead += fragments
    assert store.dead_fragments(0.0) == dead
    assert store.dead_fragments(0.0, 4) == dead[:4]
    store.forget_dead_fragments([fragment.fid for fragment in dead[:4]])
    assert store.dead_fragments(0.0) == dead[4:]
    store.forget_dead_fragments([fragment.fid for fragment in dead])
    store.forget_dead_fragments([])
    assert store.dead_fragments(0.0) == []


def test_fragments_are_dead_for_a_while_before_they_are_told(store: MetaStore) -> None:
    _, fragments = make(store, "a", 5)
    store.delete_file("a")
    assert store.dead_fragments(3600.0) == []
    assert store.dead_fragments(0.0) == list(fragments)


def test_forgetting_never_touches_a_live_fragment(store: MetaStore) -> None:
    file_id, fragments = make(store, "a", 5)
    store.forget_dead_fragments([fragment.fid for fragment in fragments])
    assert store.fragments(file_id) == fragments


def test_the_store_says_that_it_can_serve(store: MetaStore) -> None:
    store.check()
