"""What metaserver.interface.Catalogue promises about manifests, tags and lists, held by every implementation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from metaserver.interface import Condition, Manifest, ManifestPage, MetaStore
from tests.metaserver.stores import MEDIA_TYPE, cut, dead_fids, digest_of, fids_of, new_manifest
from wire.errors import (
    BadRequest,
    BlobUnknown,
    ConditionFailed,
    Conflict,
    ManifestUnknown,
    ReferencesMissing,
    RepositoryUnknown,
    SizesDiffer,
)

REPO = "team/app"
LAYER = digest_of("layer")
CONFIG = digest_of("config")
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"

#: what a repository, and a tag, may be called; byte order is digits, capitals, "_", small letters
TAGS = ["v1.10", "v1.9", "V1", "_x", "latest", "Latest", "0", "10", "9", "a-b", "a.b", "a_b", "aB", "ab"]
REPOSITORIES = ["a", "a-b/c", "a.b/c", "a/b", "a/b-c", "a/b/c", "a0", "a_b", "ab", "b", "0", "z9"]


@pytest.fixture
def store(meta_store: MetaStore) -> MetaStore:
    meta_store.put_blob(REPO, LAYER, cut(50))
    meta_store.put_blob(REPO, CONFIG, cut(10))
    return meta_store


@pytest.fixture
def empty_store(meta_store: MetaStore) -> MetaStore:
    return meta_store


def put(store: MetaStore, text: str, *tags: str, repository: str = REPO, **values: object) -> Manifest:
    return store.put_manifest(repository, new_manifest(text, **values), tags)  # type: ignore[arg-type]


# -- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",  # digests and expected of the condition, what the tag leads to before, whether that meets it
    [
        (None, False, None, True),
        (None, False, "old", False),
        (None, True, None, False),
        (None, True, "old", True),
        (["old", "x"], True, "old", True),
        (["old", "x"], True, "other", False),
        (["old", "x"], True, None, False),
        (["old", "x"], False, "old", False),
        (["old", "x"], False, "other", True),
        (["old", "x"], False, None, True),
        (["no digest"], True, "old", False),
        # what is put already is no reason to refuse a repetition
        (None, False, "new", True),
        (["old"], True, "new", True),
    ],
)
@pytest.mark.parametrize("repository", [REPO, "new/one"])
def test_a_manifest_is_put_where_its_condition_is_met_and_changes_nothing_where_not(
    store: MetaStore, repository: str, case: tuple[list[str] | None, bool, str | None, bool]
) -> None:
    digests, expected, before, met = case
    if before is not None:
        put(store, before, "v1", repository=repository)
    told = None if digests is None else tuple(digest_of(each) for each in digests)
    new = new_manifest("new")
    if met:
        store.put_manifest(repository, new, ["v1", "v2"], [Condition("v1", told, expected)])
        assert store.manifest(repository, "v1").digest == store.manifest(repository, "v2").digest == new.digest
    else:
        with pytest.raises(ConditionFailed):
            store.put_manifest(repository, new, ["v1", "v2"], [Condition("v1", told, expected)])
        for reference in ("v2", new.digest):
            with pytest.raises(ManifestUnknown):
                store.manifest(repository, reference)
        if before is None:
            assert (repository in store.repositories("").names) == (repository == REPO)
        else:
            assert store.manifest(repository, "v1").digest == digest_of(before)
        assert dead_fids(store) == fids_of(new.fragments)


def test_each_of_several_conditions_has_to_be_met(store: MetaStore) -> None:
    put(store, "old", "v1")
    met, unmet = Condition("v1", None, True), Condition(digest_of("old"), None, False)
    for conditions in ([met, unmet], [unmet, met]):
        with pytest.raises(ConditionFailed):
            store.put_manifest(REPO, new_manifest("new"), ["v1"], conditions)
    store.put_manifest(REPO, new_manifest("new"), ["v1"], [met, met])


@pytest.mark.parametrize("repository", [REPO, "new/one"])
def test_of_many_who_want_to_be_the_first_one_is(store: MetaStore, repository: str) -> None:
    first = Condition("v1", None, False)

    def put_first(number: int) -> bool:
        try:
            store.put_manifest(repository, new_manifest(f"m{number}"), ["v1"], [first])
        except ConditionFailed:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(put_first, range(8)))
    assert won.count(True) == 1
    assert store.manifest(repository, "v1").digest == digest_of(f"m{won.index(True)}")


# -- putting and getting ----------------------------------------------------------------------------------------------


def test_a_manifest_comes_back_whole_by_digest_and_by_each_tag(store: MetaStore) -> None:
    new = new_manifest(
        "m1",
        blobs=[CONFIG, LAYER],
        subject=digest_of("subject"),
        artifact_type="application/x.sbom",
        annotations={"org.example.a": "ä\n\0", "": "empty"},
    )
    manifest = store.put_manifest(REPO, new, ["v1", "latest"])
    assert (manifest.digest, manifest.media_type, manifest.size) == (new.digest, MEDIA_TYPE, 2)
    assert (manifest.subject, manifest.artifact_type) == (new.subject, "application/x.sbom")
    assert manifest.annotations == {"org.example.a": "ä\n\0", "": "empty"}
    for reference in (new.digest, "v1", "latest"):
        assert store.manifest(REPO, reference) == manifest
    assert store.fragments(manifest.file_id) == new.fragments
    info = store.stat("manifests/sha256/" + new.digest.partition(":")[2])
    assert (info.file_id, info.size) == (manifest.file_id, 2)
    assert dead_fids(store) == set()


def test_a_manifest_may_be_put_without_tags_and_references(empty_store: MetaStore) -> None:
    manifest = put(empty_store, "m1")
    assert empty_store.manifest(REPO, manifest.digest) == manifest
    assert empty_store.repositories().names == (REPO,)
    assert empty_store.tags(REPO).names == ()


def test_a_manifest_is_seen_in_its_repositories_only(store: MetaStore) -> None:
    manifest = put(store, "m1", "v1")
    for repository in ("team", "team/app/x", "unknown"):
        for reference in (manifest.digest, "v1"):
            with pytest.raises(ManifestUnknown):
                store.manifest(repository, reference)
    for reference in ("v2", "V1", digest_of("other"), LAYER):
        with pytest.raises(ManifestUnknown):
            store.manifest(REPO, reference)


def test_a_repeated_put_changes_nothing_and_new_bytes_take_the_place_of_the_old_ones(store: MetaStore) -> None:
    new = new_manifest("m1", blobs=[LAYER])
    manifest = store.put_manifest(REPO, new, ["v1"])
    assert store.put_manifest(REPO, new, ["v1"]) == manifest
    assert dead_fids(store) == set()
    again = new_manifest("m1", blobs=[LAYER])
    put_again = store.put_manifest(REPO, again, ["v2"])
    assert put_again == replace(manifest, file_id=put_again.file_id)
    assert dead_fids(store) == fids_of(new.fragments)
    assert store.fragments(put_again.file_id) == again.fragments
    assert store.manifest(REPO, "v1") == store.manifest(REPO, "v2") == put_again


def test_repeats_of_one_manifest_that_run_at_once_lose_no_chunk(store: MetaStore) -> None:
    new = new_manifest("m1", blobs=[LAYER, CONFIG])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: store.put_manifest(REPO, new, ["v1", "v2"]), range(8)))
    assert all(manifest == found[0] for manifest in found)
    assert store.fragments(found[0].file_id) == new.fragments
    assert dead_fids(store) == set()


def test_one_manifest_in_two_repositories_is_one_file_with_a_media_type_for_each(store: MetaStore) -> None:
    first = put(store, "m1", "v1", media_type="application/a")
    second = put(store, "m1", "v1", repository="other", media_type="application/b")
    assert store.manifest(REPO, "v1") == replace(first, file_id=second.file_id)
    assert store.manifest("other", "v1").media_type == "application/b"
    put(store, "m1", media_type="application/c")
    assert store.manifest(REPO, "v1").media_type == "application/c"


def test_a_manifest_that_tells_a_wrong_size_of_a_blob_is_refused_and_leaves_nothing(store: MetaStore) -> None:
    for told, refused in (({LAYER: 49}, True), ({LAYER: 50}, False), ({}, False), ({digest_of("other"): 1}, False)):
        new = replace(new_manifest(f"m{told}", blobs=[LAYER]), sizes=told)
        if not refused:
            assert store.put_manifest(REPO, new, ["v1"]).digest == new.digest
            continue
        with pytest.raises(SizesDiffer) as caught:
            store.put_manifest(REPO, new, ["v1"])
        assert caught.value.details == {"digest": LAYER, "told": 49, "actual": 50}
        assert dead_fids(store) == fids_of(new.fragments)
        assert store.tags(REPO).names == ()


def test_a_tag_moves_to_the_manifest_that_was_put_last(store: MetaStore) -> None:
    first, second = put(store, "m1", "latest", "v1"), put(store, "m2", "latest", "latest")
    assert store.manifest(REPO, "latest") == second
    assert store.manifest(REPO, "v1") == first
    assert store.tags(REPO).names == ("latest", "v1")


def test_tags_of_one_repository_moved_from_all_sides_stay_whole(store: MetaStore) -> None:
    tags = ["a", "b", "c", "d"]

    def work(number: int) -> None:
        for step in range(5):
            put(store, f"m{number}-{step}", *(tags if number % 2 else reversed(tags)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert store.tags(REPO).names == tuple(tags)
    assert len({store.manifest(REPO, tag).digest for tag in tags}) == 1


@pytest.mark.parametrize("change", [{"size": 3}, {"digest": "nonsense"}, {"media_type": ""}, {"subject": "nonsense"}])
def test_a_manifest_that_contradicts_itself_is_refused(store: MetaStore, change: dict[str, object]) -> None:
    from dataclasses import replace

    with pytest.raises(BadRequest):
        store.put_manifest(REPO, replace(new_manifest("m1"), **change), [])  # type: ignore[arg-type]
    with pytest.raises(BadRequest):
        store.put_manifest(REPO, new_manifest("m1"), ["with:colon"])
    assert store.repositories().names == (REPO,)
    assert store.list_files("manifests") == []


# -- references -------------------------------------------------------------------------------------------------------


def test_missing_references_are_all_named_and_the_manifests_chunks_die(store: MetaStore) -> None:
    absent = [digest_of(f"absent {number}") for number in range(3)]
    new = new_manifest("m1", blobs=[LAYER, absent[0], absent[1]], manifests=[absent[2]])
    with pytest.raises(ReferencesMissing) as caught:
        store.put_manifest(REPO, new, ["v1"])
    assert caught.value.digests == absent
    assert dead_fids(store) == fids_of(new.fragments)
    with pytest.raises(ManifestUnknown):
        store.manifest(REPO, new.digest)
    assert store.tags(REPO).names == ()
    assert store.list_files("manifests") == []


def test_references_count_in_the_manifests_own_repository_only(store: MetaStore) -> None:
    with pytest.raises(ReferencesMissing):
        put(store, "m1", repository="other", blobs=[LAYER])
    assert store.repositories().names == (REPO,)
    store.mount_blob("other", LAYER, REPO)
    put(store, "m1", repository="other", blobs=[LAYER])


def test_a_manifest_refused_once_can_be_put_when_its_references_have_come(store: MetaStore) -> None:
    with pytest.raises(ReferencesMissing):
        put(store, "m1", "v1", blobs=[digest_of("late")])
    store.put_blob(REPO, digest_of("late"), cut(5))
    assert put(store, "m1", "v1", blobs=[digest_of("late")]) == store.manifest(REPO, "v1")


def test_an_index_may_have_manifests_and_blobs_as_children(store: MetaStore) -> None:
    child = put(store, "child", blobs=[LAYER])
    index = put(store, "index", "multi", manifests=[child.digest, LAYER], media_type=INDEX_TYPE)
    assert store.manifest(REPO, "multi") == index
    with pytest.raises(ReferencesMissing) as caught:
        put(store, "index 2", manifests=[child.digest, digest_of("nothing")])
    assert caught.value.digests == [digest_of("nothing")]


def test_a_manifest_is_no_blob(store: MetaStore) -> None:
    child = put(store, "child")
    with pytest.raises(ReferencesMissing):
        put(store, "m1", blobs=[child.digest])


def test_optional_references_need_not_be_there(store: MetaStore) -> None:
    new = new_manifest("m1", blobs=[LAYER], optional=[digest_of("foreign"), LAYER])
    assert store.put_manifest(REPO, new, ["v1"]).digest == new.digest


def test_a_manifest_of_thousands_of_references_is_checked_whole(store: MetaStore) -> None:
    many = [digest_of(f"layer {number}") for number in range(2500)]
    with pytest.raises(ReferencesMissing) as caught:
        put(store, "m1", blobs=[LAYER, *many, CONFIG])
    assert caught.value.digests == many


# -- deleting ---------------------------------------------------------------------------------------------------------


def test_deleting_a_manifest_takes_its_tags_and_no_others(store: MetaStore) -> None:
    new = new_manifest("m1", blobs=[LAYER])
    put(store, "m1", "v1", repository="other", fragments=None)
    store.put_manifest(REPO, new, ["v1", "v2"])
    put(store, "m2", "v3")
    store.delete_manifest(REPO, new.digest)
    for reference in (new.digest, "v1", "v2"):
        with pytest.raises(ManifestUnknown):
            store.manifest(REPO, reference)
    assert store.tags(REPO).names == ("v3",)
    assert store.manifest("other", "v1").digest == new.digest
    assert not dead_fids(store) & fids_of(new.fragments)
    store.delete_manifest("other", new.digest)
    assert fids_of(new.fragments) <= dead_fids(store)
    assert store.repositories().names == (REPO,)
    assert store.blob(REPO, LAYER).size == 50


def test_deleting_a_tag_keeps_the_manifest(store: MetaStore) -> None:
    manifest = put(store, "m1", "v1", "v2")
    store.delete_tag(REPO, "v1")
    assert store.tags(REPO).names == ("v2",)
    assert store.manifest(REPO, manifest.digest) == manifest
    with pytest.raises(ManifestUnknown):
        store.manifest(REPO, "v1")


def test_a_tag_is_deleted_only_while_it_leads_where_it_should(store: MetaStore) -> None:
    manifest = put(store, "m1", "v1")
    here = Condition("v1", (manifest.digest,), True)
    for unmet in (Condition("v1", (LAYER,), True), Condition("v1", None, False), Condition("v1", here.digests, False)):
        with pytest.raises(ConditionFailed):
            store.delete_tag(REPO, "v1", [here, unmet])
    assert store.tags(REPO).names == ("v1",)
    with pytest.raises(ManifestUnknown):
        store.delete_tag(REPO, "v2", [here])
    store.delete_tag(REPO, "v1", [here, Condition("v1", (LAYER,), False)])
    assert store.tags(REPO).names == ()


def test_deleting_what_is_not_there_is_manifest_unknown(store: MetaStore) -> None:
    manifest = put(store, "m1", "v1")
    for repository, digest in ((REPO, digest_of("other")), ("unknown", manifest.digest), (REPO, LAYER)):
        with pytest.raises(ManifestUnknown):
            store.delete_manifest(repository, digest)
    for repository, tag in ((REPO, "v2"), ("unknown", "v1")):
        with pytest.raises(ManifestUnknown):
            store.delete_tag(repository, tag)
    store.delete_manifest(REPO, manifest.digest)
    with pytest.raises(ManifestUnknown):
        store.delete_manifest(REPO, manifest.digest)


def test_a_manifest_deleted_and_put_again_is_new(store: MetaStore) -> None:
    first = put(store, "m1", "v1", blobs=[LAYER])
    store.delete_manifest(REPO, first.digest)
    second = put(store, "m1", "v1", blobs=[LAYER])
    assert second.file_id > first.file_id
    assert store.manifest(REPO, "v1") == second


def test_the_file_of_a_manifest_cannot_be_taken_away_behind_the_catalogue(store: MetaStore) -> None:
    manifest = put(store, "m1", "v1")
    path = "manifests/sha256/" + manifest.digest.partition(":")[2]
    with pytest.raises(Conflict):
        store.delete_file(path)
    assert store.manifest(REPO, "v1") == manifest


def test_an_accepted_manifest_had_its_blob_when_it_was_committed(store: MetaStore) -> None:
    """A deleter and a pusher race: whenever the manifest was accepted, a delete that came after it found the blob."""
    for number in range(12):
        blob = digest_of(f"raced {number}")
        store.put_blob(REPO, blob, cut(5))
        with ThreadPoolExecutor(2) as pool:
            putting = pool.submit(put, store, f"raced manifest {number}", f"t{number}", blobs=[blob])
            deleting = pool.submit(store.delete_blob, REPO, blob)
            deleting.result(30)
            refused = putting.exception(30)
        if refused is None:
            assert store.manifest(REPO, f"t{number}").size > 0
        else:
            assert isinstance(refused, ReferencesMissing)
            with pytest.raises(ManifestUnknown):
                store.manifest(REPO, f"t{number}")
        with pytest.raises(BlobUnknown):
            store.blob(REPO, blob)


# -- lists ------------------------------------------------------------------------------------------------------------


def test_tags_are_listed_by_bytes_in_pages_of_any_size(store: MetaStore) -> None:
    put(store, "m1", *TAGS)
    put(store, "m2", "other", repository="team/app2")
    expected = sorted(TAGS, key=str.encode)
    assert list(store.tags(REPO).names) == expected
    for limit in (1, 2, 5, len(TAGS), 100):
        found: list[str] = []
        more = True
        while more:
            page = store.tags(REPO, found[-1] if found else "", limit)
            more = page.more
            assert len(page.names) == limit or not more
            found += page.names
        assert found == expected


def test_a_page_goes_on_after_any_text(store: MetaStore) -> None:
    put(store, "m1", "a", "c")
    assert store.tags(REPO, "b").names == ("c",)
    assert store.tags(REPO, "c") == store.tags(REPO, "😀")
    assert store.tags(REPO, "c").names == ()
    assert not store.tags(REPO, "c").more


def test_tags_of_an_unknown_repository_are_repository_unknown(store: MetaStore) -> None:
    assert store.tags(REPO).names == ()
    with pytest.raises(RepositoryUnknown):
        store.tags("team")


def test_repositories_are_listed_by_bytes_in_pages(empty_store: MetaStore) -> None:
    for repository in reversed(REPOSITORIES):
        empty_store.put_blob(repository, LAYER, cut(5))
    expected = sorted(REPOSITORIES, key=str.encode)
    assert list(empty_store.repositories().names) == expected
    found: list[str] = []
    more = True
    while more:
        page = empty_store.repositories(found[-1] if found else "", 5)
        more = page.more
        found += page.names
    assert found == expected


@pytest.mark.parametrize("limit", [0, 10_001])
def test_a_limit_out_of_bounds_is_refused_by_every_list(store: MetaStore, limit: int) -> None:
    with pytest.raises(BadRequest):
        store.tags(REPO, "", limit)
    with pytest.raises(BadRequest):
        store.repositories("", limit)


# -- referrers --------------------------------------------------------------------------------------------------------


def test_referrers_are_the_repositorys_manifests_of_a_subject_in_digest_order(store: MetaStore) -> None:
    subject = digest_of("subject")
    made = [put(store, f"r{number}", subject=subject, artifact_type="application/sig") for number in range(5)]
    sbom = put(store, "sbom", subject=subject, artifact_type="application/sbom", annotations={"a": "b"})
    put(store, "elsewhere", subject=digest_of("another"))
    put(store, "none")
    put(store, "foreign", subject=subject, repository="other")
    by_digest = sorted([*made, sbom], key=lambda manifest: manifest.digest)
    assert store.referrers(REPO, subject) == ManifestPage(tuple(by_digest), more=False)
    assert store.referrers(REPO, subject, "application/sbom").manifests == (sbom,)
    assert store.referrers(REPO, subject, "application/none").manifests == ()
    assert store.referrers(REPO, subject, after=by_digest[3].digest).manifests == tuple(by_digest[4:])
    store.delete_manifest(REPO, sbom.digest)
    assert sbom not in store.referrers(REPO, subject).manifests


def test_referrers_with_large_annotations_come_in_pages(store: MetaStore) -> None:
    subject = digest_of("subject")
    large = {"text": "x" * 1_500_000}
    made = [put(store, f"r{number}", subject=subject, annotations=large) for number in range(5)]
    pages = [store.referrers(REPO, subject)]
    while pages[-1].more:
        pages.append(store.referrers(REPO, subject, after=pages[-1].manifests[-1].digest))
    assert [len(page.manifests) for page in pages] == [2, 2, 1]
    assert [manifest for page in pages for manifest in page.manifests] == sorted(made, key=lambda m: m.digest)


def test_unknown_subjects_and_repositories_have_no_referrers(store: MetaStore) -> None:
    assert store.referrers(REPO, digest_of("subject")) == ManifestPage((), more=False)
    assert store.referrers("unknown", digest_of("subject")) == ManifestPage((), more=False)
