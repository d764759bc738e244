"""Bytes that are no proper request: refused in the API's form and in time, and nothing has changed."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.hostile.budget import examples
from tests.hostile.exchange import check_form, converse
from tests.hostile.raw_cases import (
    BLOB,
    FRAMING,
    HEADS,
    MANIFEST,
    PING,
    PUSHES,
    TARGETS,
    TYPE,
    Case,
    chunks,
    head,
    push,
)
from tests.hostile.world import IMAGE, REPOSITORY, World

REFUSED = {**FRAMING, **HEADS, **TARGETS}

#: a valid push of each framing, and a pull
VALID = (
    push("Content-Length: 3"),
    chunks(b"3\r\nraw\r\n0\r\n\r\n"),
    head("PUT", MANIFEST, TYPE, f"Content-Length: {len(IMAGE)}") + IMAGE,
    head("GET", f"/v2/{REPOSITORY}/tags/list?n=1&last=all", "Accept: */*"),
)

#: bytes that mean something to somebody
_MARKS = (
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b":",
    b"\x00",
    b"\x0b",
    b"0",
    b"-",
    b",",
    b"\xff",
    b"%2f",
    b"HTTP/1.1",
    b";",
    b"\r\n\r\n",
)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_proper_request_gets_its_answer_and_changes_nothing(world: World, name: str) -> None:
    data, statuses = REFUSED[name]
    before = world.state()
    answers = converse(world.port, data)
    assert answers
    for answer in answers:
        check_form(answer)
    assert answers[0].status in statuses, answers[0]
    assert world.state() == before


@pytest.mark.parametrize("name", PUSHES)
def test_what_is_only_odd_is_taken_as_it_is_meant(world: World, name: str) -> None:
    case: Case = PUSHES[name]
    data, statuses = case
    answers = converse(world.port, data)
    assert answers[0].status in statuses, answers[0]
    if answers[0].status == 201:
        assert world.client.send("GET", answers[0].headers["location"]).status == 200


def test_a_refused_length_beside_chunks_leaves_no_request_behind(world: World) -> None:
    """Smuggling: what one side takes for the body would be the other side's next request."""
    hidden = head("DELETE", f"/v2/{REPOSITORY}/manifests/v1")
    for headers in (
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", f"Content-Length: {len(hidden) + 5}"),
        ("Content-Length: 0", f"Content-Length: {len(hidden)}"),
        ("Transfer-Encoding: identity, chunked", "Content-Length: 5"),
    ):
        answers = converse(world.port, push(*headers, body=b"0\r\n\r\n" + hidden))
        assert [answer.status // 100 for answer in answers] in ([4], [5])
    assert world.client.send("GET", f"/v2/{REPOSITORY}/manifests/v1").status == 200


def test_requests_that_come_together_are_answered_in_order(world: World) -> None:
    wrong = head("PUT", "/v2/A/manifests/x", "Content-Length: 3") + b"abc"
    missing = head("GET", f"/v2/{REPOSITORY}/manifests/missing")
    answers = converse(world.port, (PING + wrong + missing + push("Content-Length: 3")) * 10, pieces=13)
    assert [answer.status for answer in answers] == [200, 400, 404, 201] * 10


@pytest.mark.parametrize("data", VALID)
def test_a_request_that_ends_anywhere_before_its_end_changes_nothing(world: World, data: bytes) -> None:
    before = world.state()
    for end in sorted({*range(0, len(data), max(1, len(data) // 60)), len(data) - 1}):
        answers = converse(world.port, data[:end])
        for answer in answers:
            check_form(answer)
            assert answer.status >= 400
    assert world.state() == before


@given(
    data=st.sampled_from(VALID),
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 3), st.sampled_from(_MARKS)), min_size=1, max_size=4
    ),
    follows=st.booleans(),
)
@example(data=VALID[0], changes=[(0.0, 0, b"\r\n")], follows=True)
@examples(500)
def test_any_bytes_that_look_like_a_request_are_answered_or_refused(
    world: World, data: bytes, changes: list[tuple[float, int, bytes]], follows: bool
) -> None:
    before = world.state()
    for where, dropped, inserted in changes:
        at = int(where * len(data))
        data = data[:at] + inserted + data[at + dropped :]
    answers = converse(world.port, data + (PING if follows else b""), first_is_head=data.lstrip().startswith(b"HEAD "))
    for answer in answers:
        check_form(answer)
    # Without a success but the ping's nothing has changed.
    if all(answer.status >= 400 or answer.body == b"{}" for answer in answers):
        assert world.state().named == before.named


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_names_that_make_patterns_search_for_ever_are_refused_at_once(world: World, method: str) -> None:
    started_s = time.monotonic()
    names = ["a" + "-" * n + "!" for n in (30, 200, 254)] + [
        part * (250 // len(part)) + "!" for part in ("a-", "a__", "a.", "a/", "aa")
    ]
    for name in names:
        for path in (f"/v2/{name}/tags/list", f"/v2/{name}/blobs/uploads/", f"/v2/{name}/manifests/{name}"):
            assert converse(world.port, head(method, path, "Content-Length: 0"))[0].status in (400, 404, 405)
    # 24 requests of some milliseconds; one search of 30 characters would take minutes
    assert time.monotonic() - started_s < 15.0


def test_a_push_is_taken_as_it_was_before_all_this(world: World) -> None:
    (answer,) = converse(world.port, push("Content-Length: 3"))
    assert (answer.status, answer.headers["docker-content-digest"]) == (201, BLOB.rpartition("=")[2])
