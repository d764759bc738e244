"""Whatever is asked of /v2/: an answer in time, never a fault of ours, and nothing has changed where it was refused."""

from __future__ import annotations

from hypothesis import event, given
from hypothesis import strategies as st

from tests.hostile.budget import examples
from tests.hostile.exchange import Answer, check_form, converse
from tests.hostile.requests import MEDIA_TYPES, SESSION, Framing, HostileRequest, hostile_requests, manifests
from tests.hostile.world import REPOSITORY, State, World
from tests.registry.documents import sha256

#: follows a request whose end is known: shows that the server saw the same end
PING = b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@given(request=hostile_requests())
@examples(800)
def test_any_request_is_answered_and_a_refused_one_changes_nothing(world: World, request: HostileRequest) -> None:
    session = world.open_session() if SESSION in request.target else ""
    before = world.state()
    data = request.encoded(session) + (PING if request.whole else b"")
    answers = converse(world.port, data, pieces=request.pieces, first_is_head=request.method == "HEAD")
    assert answers, "no answer"
    for number, answer in enumerate(answers):
        check_form(answer, is_head=number == 0 and request.method == "HEAD")
    first = answers[0]
    event(f"{request.method if len(request.method) < 8 else 'odd'} {first.status}")
    if len(answers) > 1:
        assert request.whole
        assert len(answers) == 2
        assert (answers[1].status, answers[1].body) == (200, b"{}"), "the next request was not found where it began"
    after = world.state()
    if first.status >= 400:
        check_unchanged(before, after, session, first)
    elif after != before:
        world.seed()
    if first.status == 200 and request.method == "GET" and "docker-content-digest" in first.headers:
        assert first.headers["docker-content-digest"] in (sha256(first.body),)


@given(document=manifests(), media_type=st.sampled_from(MEDIA_TYPES), by_digest=st.booleans())
@examples(300)
def test_any_manifest_is_stored_byte_by_byte_or_refused_whole(
    world: World, document: bytes, media_type: str, by_digest: bool
) -> None:
    digest = sha256(document)
    reference = digest if by_digest else "fuzzed"
    before = world.state()
    path = f"/v2/{REPOSITORY}/manifests/{reference}"
    request = HostileRequest("PUT", path, (("Content-Type", media_type),), document, Framing("length"), 1)
    first, second = converse(world.port, request.encoded("") + PING)
    check_form(first)
    event(str(first.status))
    assert second.status == 200
    if first.status != 201:
        check_unchanged(before, world.state(), "", first)
        return
    reply = world.client.send("GET", path)
    assert (reply.status, reply.body, reply.headers["Docker-Content-Digest"]) == (200, document, digest)
    assert world.client.send("DELETE", f"/v2/{REPOSITORY}/manifests/{digest}").status == 202
    world.seed()


def check_unchanged(before: State, after: State, session: str, answer: Answer) -> None:
    assert after.named == before.named
    others = {upload: size for upload, size in before.uploads.items() if upload != session}
    assert {upload: size for upload, size in after.uploads.items() if upload != session} == others
    if session not in before.uploads:
        assert after.files == before.files
        return
    if session not in after.uploads:
        # A wrong digest: nobody can say which bytes of the session are wrong.
        assert answer.json["errors"][0]["code"] == "DIGEST_INVALID"
        assert after.files == before.files - 1
        return
    assert after.files == before.files
    # A body that was cut, or turned out to be wrong: what was durable before that was seen stays.
    assert after.uploads[session] >= before.uploads[session]
    if after.uploads[session] > before.uploads[session]:
        assert answer.json["errors"][0]["code"] in ("SIZE_INVALID", "UNSUPPORTED"), answer
