"""An ImageServer over HTTP in the test's own process, so that a test can hold its stores up and look at them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from imageserver.app import ChunkBuffers, chunk_buffers, create_app
from imageserver.client import ClientLimits, HttpImageStore
from imageserver.core import LocalImageStore
from tests.imageserver.waiting import wait_until
from wire.auth import ClusterKey

KEY = ClusterKey(b"a key that only the tests know....")


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        """Requests are logged by the app."""


@contextmanager
def listening(store: LocalImageStore, buffers: ChunkBuffers | None = None) -> Iterator[str]:
    """Serve `store`; gives the base URL."""
    buffers = buffers or chunk_buffers(256 * 1024, 16)
    app = create_app(store, key=KEY, buffers=buffers, counters=store.counters)
    server: BaseWSGIServer = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Handler)
    server.daemon_threads = True  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
    # A client may have the whole answer before the server's thread has given its buffer back.
    wait_until(lambda: buffers.usual.in_use == buffers.large.in_use == 0)


@contextmanager
def served(store: LocalImageStore, limits: ClientLimits | None = None) -> Iterator[HttpImageStore]:
    """An HttpImageStore over two addresses of one ImageServer."""
    with listening(store) as first, listening(store) as second:
        remote = HttpImageStore([first, second], KEY, limits=limits)
        try:
            yield remote
        finally:
            remote.close()
