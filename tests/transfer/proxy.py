"""A TCP proxy in front of a registry: counts bytes, holds them at a chosen point, and cuts connections.

with Proxy(registry) as proxy:
    proxy.hold(up_bytes=100 << 20)     # nothing goes on once so many bytes went to the registry
    ... proxy.held.wait(60) ...
    proxy.cut()                        # every connection ends, for both sides
    proxy.wait_for_quiet(60)           # and the registry has noticed
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self

_RECEIVE_BYTES = 256 << 10
_HOLD_S = 120.0
_NEVER = float("inf")


class Proxy:
    """`upstream` gives host:port for each new connection: the registry may have moved. `up` and `down` count bytes."""

    def __init__(self, upstream: Callable[[], str]) -> None:
        self._upstream = upstream
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._serving = 0  # connections that the registry has not ended
        self._quiet = threading.Condition(self._lock)
        self.up = self.down = self.patches = 0
        self._hold_up = self._hold_down = self._hold_patches = _NEVER
        self.held = threading.Event()
        self._released = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self, *, up_bytes: float = _NEVER, down_bytes: float = _NEVER, patches: float = _NEVER) -> None:
        """Once so much more has passed (`patches`: before that PATCH begins), `held` is set and nothing moves."""
        with self._lock:
            self._hold_up, self._hold_down = self.up + up_bytes, self.down + down_bytes
            self._hold_patches = self.patches + patches
        self.held.clear()
        self._released.clear()

    def go_on(self) -> None:
        with self._lock:
            self._hold_up = self._hold_down = self._hold_patches = _NEVER
        self._released.set()

    def cut(self) -> None:
        """Ends all connections, and whatever is held."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
            self._hold_up = self._hold_down = self._hold_patches = _NEVER
        for client, server in pairs:
            _end(client, socket.SHUT_RDWR)
            _end(server, socket.SHUT_WR)
        self._released.set()

    def wait_for_quiet(self, timeout_s: float) -> None:
        """Until the registry has ended all connections: what it still took in has arrived."""
        with self._quiet:
            assert self._quiet.wait_for(lambda: self._serving == 0, timeout_s), f"{self._serving} are still served"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            host, _, port = self._upstream().rpartition(":")
            try:
                server = socket.create_connection((host, int(port)), timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._pairs.add((client, server))
                self._serving += 1
            threading.Thread(target=self._up, args=(client, server), daemon=True).start()
            threading.Thread(target=self._down, args=(server, client), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        self._pump(client, server, is_up=True)
        _end(client, socket.SHUT_RD)
        _end(server, socket.SHUT_WR)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        self._pump(server, client, is_up=False)
        _end(client, socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            while server.recv(_RECEIVE_BYTES):
                pass  # nobody wants it any more
        with self._quiet:
            self._serving -= 1
            self._quiet.notify_all()

    def _pump(self, source: socket.socket, target: socket.socket, *, is_up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_RECEIVE_BYTES):
                if not self._passes(data, is_up):
                    break
                target.sendall(data)

    def _passes(self, data: bytes, is_up: bool) -> bool:
        """Counts it, and waits where it is to be held; False when the connection was cut meanwhile."""
        with self._lock:
            # A client sends a head on its own, and the next one only after an answer.
            self.patches += is_up and data.startswith(b"PATCH ")
            holds = self.up > self._hold_up if is_up else self.down > self._hold_down
            holds = holds or (is_up and self.patches >= self._hold_patches)
        if holds:
            self.held.set()
            if not self._released.wait(_HOLD_S):
                return False
        with self._lock:
            if is_up:
                self.up += len(data)
            else:
                self.down += len(data)
        return True


def _end(connection: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(how)
