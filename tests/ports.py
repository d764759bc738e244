"""A port for a server that cannot choose one by itself."""

import socket


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody used a moment ago; prefer servers that take port 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
