"""A registry that may open few files: connections end sooner, and requests find what they need to open."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from tests.speedy.embedded import EmbeddedServer
from tests.speedy.pushing import Pusher

FILES_MAX = 48

#: an idle connection is kept for 75 s
SOON_S = 20.0


def test_idle_connections_keep_nobody_out_where_few_files_may_be_open(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "data", prefix=["prlimit", f"--nofile={FILES_MAX}:{FILES_MAX}"])
    idle: list[socket.socket] = []
    try:
        server.wait_ready()
        pusher = Pusher(server.url)
        host, _, port = server.url.removeprefix("http://").partition(":")
        idle = [socket.create_connection((host, int(port))) for _ in range(FILES_MAX)]
        started_s = time.monotonic()
        digest = pusher.push_blob("few/files", os.urandom(9 * 1024 * 1024), pieces=2)
        pusher.pull_blob("few/files", digest)
        assert time.monotonic() - started_s < SOON_S
        assert "Too many open files" not in server.log_text()
    finally:
        for sock in idle:
            sock.close()
        server.kill()
