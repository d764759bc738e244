"""A balancer without affinity, as a thread: each connection goes to the next front end that takes it."""

from __future__ import annotations

import contextlib
import itertools
import selectors
import socket
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

#: bytes that wait here and in the sockets on either side: little, so that what a client has sent has been received
BUFFER_BYTES = 64 * 1024
CONNECT_TIMEOUT_S = 5.0
IDLE_S = 90.0


class Balancer:
    """Listens on `url`. `serving` is the address of the front end that the last connection went to."""

    def __init__(self, targets: Sequence[str]) -> None:
        self._targets = [(urlsplit(url).hostname or "", urlsplit(url).port or 0) for url in targets]
        self._turn = itertools.count()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)  # taken over by what it accepts
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.serving = ""
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            target = self._connect()
            if target is None:
                return  # nobody is there: the client sees its connection end
            with target, contextlib.suppress(OSError):
                self._pass_on(client, target)

    def _connect(self) -> socket.socket | None:
        for _ in self._targets:
            host, port = self._targets[next(self._turn) % len(self._targets)]
            target = socket.socket()
            target.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            target.settimeout(CONNECT_TIMEOUT_S)
            try:
                target.connect((host, port))
            except OSError:
                target.close()
                continue
            self.serving = f"http://{host}:{port}"
            return target
        return None

    def _pass_on(self, client: socket.socket, target: socket.socket) -> None:
        """Until one side ends: then both do, as when a balancer's front end dies."""
        for sock in (client, target):
            sock.settimeout(IDLE_S)
        with selectors.DefaultSelector() as ready:
            ready.register(client, selectors.EVENT_READ, target)
            ready.register(target, selectors.EVENT_READ, client)
            while events := ready.select(IDLE_S):
                for key, _ in events:
                    source: socket.socket = key.fileobj  # type: ignore[assignment]
                    data = source.recv(BUFFER_BYTES)
                    if not data:
                        return
                    key.data.sendall(data)
