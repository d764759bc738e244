"""Connections to PostgreSQL that never wait without a bound.

libpq waits for an answer as long as the connection stands, and the server's own statement and lock time-outs need a
server that still runs: one that is frozen, with a kernel that goes on acknowledging, would hold every thread for ever.
"""

from __future__ import annotations

import select
import time

from psycopg2 import InterfaceError, OperationalError, extensions


class BoundedConnection(extensions.connection):
    """`answer_s`: for one statement, `connect_s`: for connecting; afterwards the connection is closed and
    OperationalError raised. Subclasses set them: psycopg2 makes the object itself."""

    connect_s = 3.0
    answer_s = 35.0
    connected = False

    def set_isolation_level(self, level: int | None) -> None:
        """SQLAlchemy calls this also on the way back to the pool, where an error would keep the connection's place for
        ever. One that broke meanwhile is closed: whoever gets it next finds that out at the first statement."""
        try:
            super().set_isolation_level(level)
        except (OperationalError, InterfaceError):
            self.close()


def bounded(connect_s: float, answer_s: float) -> type[BoundedConnection]:
    """For `connection_factory`. Switches this process's psycopg2 to waiting here (which is all or nothing)."""
    extensions.set_wait_callback(_wait)
    return type("Connection", (BoundedConnection,), {"connect_s": connect_s, "answer_s": answer_s})


def _wait(connection: extensions.connection) -> None:
    try:
        if not isinstance(connection, BoundedConnection):
            limit_s = BoundedConnection.answer_s
        else:
            limit_s = connection.answer_s if connection.connected else connection.connect_s
        deadline_s = time.monotonic() + limit_s
        while (state := connection.poll()) != extensions.POLL_OK:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                # psycopg2 closes the connection on the way out.
                raise OperationalError(f"the server has not answered for {limit_s:g} s")
            poller = select.poll()
            poller.register(connection, select.POLLIN if state == extensions.POLL_READ else select.POLLOUT)
            poller.poll(left_s * 1000)
        if isinstance(connection, BoundedConnection):
            connection.connected = True
    finally:
        # A connection that was never made closes its socket with its last reference. The error's traceback has this
        # frame, and whoever keeps the error would keep the socket until the garbage collector comes.
        del connection
