"""An upload that its client left ends by itself; one that goes on does not."""

from __future__ import annotations

from pathlib import Path

from tests.speedy.embedded import EmbeddedServer
from tests.speedy.pushing import Pusher, digest_of, expect
from tests.wire.serving import wait_until

MIB = 1 << 20


def test_an_upload_that_was_left_ends_and_later_requests_of_it_are_told_so(tmp_path: Path) -> None:
    server = EmbeddedServer(
        tmp_path / "data", SPEEDY_REGISTRY_UPLOAD_EXPIRES_S="1s", SPEEDY_REGISTRY_RECLAIM_AFTER_S="0"
    )
    try:
        server.wait_ready()
        pusher = Pusher(server.url)
        location = ""

        def opened() -> bool:
            nonlocal location
            answer = pusher.send("POST", "/v2/team/app/blobs/uploads/")
            location = answer.headers.get("Location", "")
            return answer.status_code == 202

        wait_until(opened, 30.0, "a group that takes writes")
        expect(pusher.send("PATCH", location, bytes(5 * MIB)), 202)
        wait_until(lambda: pusher.send("GET", location).status_code == 404, 60.0, "the end of the upload")
        for method in ("PATCH", "PUT", "DELETE"):
            path = f"{location}?digest={digest_of(bytes(5 * MIB))}" if method == "PUT" else location
            answer = expect(pusher.send(method, path, b"more"), 404)
            assert answer.json()["errors"][0]["code"] == "BLOB_UPLOAD_UNKNOWN"
        assert "was abandoned" in server.log_text()
        # What is being pushed meanwhile is no older than its last piece.
        pusher.push_image("team/app", "v1", [bytes(5 * MIB)])
        assert server.stop() == 0
    finally:
        server.kill()
