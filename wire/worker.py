"""The gunicorn worker under every room: gthread, made safe against clients that stall and parents that die.

What differs from gunicorn 27's ThreadWorker, and why:

- A request's head is collected in the main loop. A thread is taken only for a complete head, so that half-sent heads
  and idle connections hold no thread; each head has a deadline, whatever the pace of its bytes (408).
- A connection is closed in the main loop without waiting for the peer: gunicorn would stand still for up to 2 s each
  time.
- A new connection finds room: one that nobody has used for a while ends for it, and there are never so many that the
  room's own files find no descriptors.
- Health and metrics have threads of their own: they answer while every other thread is busy with bodies.
- A thread that has answered looks for the client's next request for a moment (NEXT_S) before it gives the connection
  back: handing it over to the main loop and on to another thread costs three wake-ups, much of a small request.
- Sockets carry receive and send time-outs, so that half-sent bodies and readers that stall end.
- The parser's refusals are answered in JSON, in the form of the OCI Distribution API.
- The process ends at once when the arbiter is killed (PR_SET_PDEATHSIG); SIGINT ends it as cleanly as SIGTERM.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import errno
import json
import os
import resource
import select
import selectors
import signal
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from gunicorn.http import errors as parser_errors
from gunicorn.workers.gthread import PollableMethodQueue, TConn, ThreadWorker

from wire import memory
from wire.auth import OPEN_PATHS
from wire.body import set_receive_timeout, set_send_timeout
from wire.threads import WorkerThreads

HEAD_BYTES_MAX = 64 * 1024

# Read at once while a head is awaited: what follows the head must be copied out of here.
_HEAD_READ_BYTES = 8 * 1024

#: how long a thread waits for the next request on a connection that it has just answered
NEXT_S = 0.002

#: time between two signs of life to the arbiter, which waits much longer for one; each is a write to a file system
NOTIFY_S = 1.0

#: how long, and for how many bytes, a closed connection is read, so that our last answer is not lost to a reset
LINGER_S = 2.0
LINGER_BYTES_MAX = 4 * 1024 * 1024

#: how long a kept connection stays unused before it may have to make room for a new one
IDLE_MIN_S = 1.0

#: connections that there are however few descriptors the system gives, and the share of the free ones that all of them
#: may take: the rest is for what requests open (a store's volumes, a database's files)
CONNECTIONS_MIN = 4
_CONNECTIONS_SHARE = 0.7

#: the log tells of connections that cannot be accepted so often
_TELL_EVERY_S = 10.0

#: how long requests that outlived the graceful stop may take to see that their connections are gone
STRAGGLER_WAIT_S = 2.0

#: what ends a server
STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP})

_OPEN_THREADS = 2

#: one thread of so many may be reading out a body that was refused
_THREADS_PER_DRAIN = 16
_OPEN_HEADS = tuple(f"GET {path} ".encode("ascii") for path in OPEN_PATHS)

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """head_timeout_s: from a head's first byte to its last. idle_timeout_s: the longest silence inside a body, either
    way."""

    head_timeout_s: float = 30.0
    idle_timeout_s: float = 60.0


# parser refusal -> status and OCI error code; the first match counts
_REFUSALS: tuple[tuple[type[Exception], int, str], ...] = (
    (parser_errors.UnsupportedTransferCoding, 501, "UNSUPPORTED"),
    (parser_errors.LimitRequestLine, 414, "UNSUPPORTED"),
    (parser_errors.LimitRequestHeaders, 431, "UNSUPPORTED"),
    (parser_errors.ExpectationFailed, 417, "UNSUPPORTED"),
    (parser_errors.ForbiddenProxyRequest, 403, "DENIED"),
    (parser_errors.ConfigurationProblem, 500, "UNKNOWN"),
    (parser_errors.InvalidResponseHeader, 500, "UNKNOWN"),
    (parser_errors.InvalidResponseHeaderName, 500, "UNKNOWN"),
    (parser_errors.ParseException, 400, "UNSUPPORTED"),
)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends, however that happens. To be called right after the
    fork."""
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    # The parent may have died before the call took effect.
    if os.getppid() != parent_pid:
        os._exit(1)


def refusal(status: int, code: str, message: str) -> bytes:
    """A whole answer that closes the connection; 503 says when to come again."""
    body = json.dumps({"errors": [{"code": code, "message": message, "detail": None}]}).encode()
    again = f"Retry-After: {memory.RETRY_AFTER_S}\r\n" if status == 503 else ""
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"{again}Docker-Distribution-Api-Version: registry/2.0\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body


def is_head_complete(head: bytes | bytearray, searched: int = 0) -> bool:
    """Whether the parser can decide: the head is whole, or so wrong that it will be refused. `searched` bytes were seen
    before."""
    start = max(0, searched - 3)
    if head.find(b"\r\n\r\n", start) >= 0 or len(head) > HEAD_BYTES_MAX:
        return True
    fresh = head[start:]
    return fresh.count(b"\n") != fresh.count(b"\r\n") + fresh.startswith(b"\n")


class RoomConnection(TConn):  # type: ignore[misc]
    """A connection; `head` is what has come of a request's head while no thread works for it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.head = bytearray()
        self.linger_bytes_left = LINGER_BYTES_MAX
        self.data_ready = True  # a thread gets it with a complete head only


class RoomWorker(ThreadWorker):  # type: ignore[misc]
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.limits: WorkerLimits = self.app.limits
        self.method_queue = _Wakeups()
        self.open_pool = WorkerThreads(_OPEN_THREADS, "open")
        self.lingering: deque[RoomConnection] = deque()
        self.running: dict[RoomConnection, concurrent.futures.Future[Any]] = {}
        self.worker_connections: int = self.cfg.worker_connections
        self.drains = threading.BoundedSemaphore(max(1, self.cfg.threads // _THREADS_PER_DRAIN))
        self._no_descriptor = False  # somebody waits who could not be accepted
        self._told_s = -_TELL_EVERY_S
        self._notified_s = -NOTIFY_S

    def notify(self) -> None:
        now_s = time.monotonic()
        if now_s - self._notified_s >= NOTIFY_S:
            self._notified_s = now_s
            super().notify()

    def get_thread_pool(self) -> WorkerThreads:
        return WorkerThreads(self.cfg.threads)

    def init_signals(self) -> None:
        super().init_signals()
        # A terminal sends SIGINT and SIGHUP to the whole group; the arbiter decides, and running requests finish.
        signal.signal(signal.SIGINT, self.handle_exit)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.siginterrupt(signal.SIGINT, False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # blocked by the arbiter around the fork

    def run(self) -> None:
        for pool in (self.open_pool, self.tpool):
            pool.start_one()
        self._leave_descriptors()
        super().run()
        self._end_stragglers()

    # -- the main loop's side: connections that no thread works for ------------------------------------------

    def accept(self, listener: Any) -> None:
        try:
            sock, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._no_descriptor = True
                if time.monotonic() - self._told_s >= _TELL_EVERY_S:
                    self._told_s = time.monotonic()
                    self.log.error("cannot accept a connection: %s", error.strerror)
                time.sleep(0.05)  # the listener stays readable: do not spin
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EPROTO):
                raise
            return
        self.nr_conns += 1
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            set_receive_timeout(sock, self.limits.idle_timeout_s)
            set_send_timeout(sock, self.limits.idle_timeout_s)
            connection = RoomConnection(self.cfg, sock, address, listener.getsockname())
        except OSError:
            self.nr_conns -= 1
            sock.close()
            return
        self._await_head(connection)

    def finish_request(self, conn: RoomConnection, fs: concurrent.futures.Future[Any]) -> None:
        """A thread has done with `conn`: wait for its next request, which may have begun to come already."""
        self.running.pop(conn, None)
        if fs.cancelled() or fs.exception() is not None or fs.result() is not True:
            self._part(conn)
            return
        conn.head = bytearray(conn.parser.unreader.take_buffered())
        if is_head_complete(conn.head):
            self._dispatch(conn)
        else:
            self._await_head(conn)

    def enqueue_req(self, conn: RoomConnection) -> None:
        pool = self.open_pool if conn.head.startswith(_OPEN_HEADS) else self.tpool
        try:
            future = pool.submit(self.handle, conn)
        except (RuntimeError, MemoryError) as error:
            self._refuse_now(conn, 503, f"no thread for a request: {error}", "TOOMANYREQUESTS")
            return
        self.running[conn] = future
        future.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))

    def murder_keepalived(self, force: bool = False) -> None:
        """Close connections that sent nothing of a request for the keep-alive time (or all that wait: `force`)."""
        now = time.monotonic()
        while self.keepalived_conns and (force or self.keepalived_conns[0].timeout <= now):
            self._drop(self.keepalived_conns.popleft())
        # Not where the lack is met: the poller may be about to tell of the connection that would end.
        if self._no_descriptor or self.nr_conns >= self.worker_connections:
            self._no_descriptor = False
            self._make_room(now)

    def _make_room(self, now: float) -> None:
        """End the connection that has been idle for longest. One whose next request has come is not idle."""
        for conn in self.keepalived_conns:
            if conn.timeout - self.cfg.keepalive > now - IDLE_MIN_S:
                return
            with suppress(OSError):
                conn.sock.recv(1, socket.MSG_PEEK)
                continue
            self.keepalived_conns.remove(conn)
            self._drop(conn)
            return

    def _leave_descriptors(self) -> None:
        """Take no more connections than leave the room descriptors to work with."""
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = limit - len(os.listdir("/proc/self/fd"))
        most = max(CONNECTIONS_MIN, int(free * _CONNECTIONS_SHARE))
        if most < self.worker_connections:
            self.log.warning("at most %d connections at once: only %d files may be open", most, limit)
            self.worker_connections = most
        # gunicorn would end who has just been served while others sit idle.
        self.max_keepalived = self.worker_connections

    def murder_pending(self) -> None:
        """End heads that are past their deadline, and connections that have lingered long enough."""
        now = time.monotonic()
        while self.pending_conns and self.pending_conns[0].timeout <= now:
            conn = self.pending_conns.popleft()
            self._unwatch(conn)
            self._refuse_now(conn, 408, "the request's head did not arrive in time")
        while self.lingering and self.lingering[0].timeout <= now:
            self._drop(self.lingering.popleft())

    def _cap_keepalive(self, deadline: float) -> None:
        """The stop begins: running requests answer `Connection: close`, waiting connections end by `deadline`."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)
        for conn in self.running:
            request = conn.parser.mesg if conn.parser is not None else None
            if request is not None:
                request.force_close()
        # Who has connected is served; who comes now is refused at once and can turn to another server.
        for listener in self.sockets:
            accepted = -1
            while accepted < self.nr_conns < self.worker_connections:
                accepted = self.nr_conns
                self.accept(listener)
            listener.close()

    def _await_head(self, conn: RoomConnection) -> None:
        conn.sock.setblocking(False)
        if conn.head:
            conn.timeout = time.monotonic() + self.limits.head_timeout_s
            self.pending_conns.append(conn)
        else:
            # A stopping worker answers what comes very soon, and no more.
            conn.timeout = time.monotonic() + (self.cfg.keepalive if self.alive else 0.5)
            self.keepalived_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_readable, conn))

    def _on_readable(self, conn: RoomConnection, sock: socket.socket) -> None:
        try:
            data = sock.recv(_HEAD_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        waiting = self.pending_conns if conn.head else self.keepalived_conns
        if not data:
            waiting.remove(conn)
            self._drop(conn)
            return
        searched = len(conn.head)
        conn.head += data
        if is_head_complete(conn.head, searched):
            waiting.remove(conn)
            self._unwatch(conn)
            self._dispatch(conn)
        elif searched == 0:
            waiting.remove(conn)
            self._unwatch(conn)
            self._await_head(conn)

    def _dispatch(self, conn: RoomConnection) -> None:
        oversize = len(conn.head) > HEAD_BYTES_MAX and b"\r\n\r\n" not in conn.head[:HEAD_BYTES_MAX]
        if oversize and 0 < conn.head.find(b"\r\n", 2) <= self.cfg.limit_request_line:
            self._refuse_now(conn, 431, f"the request's head is larger than {HEAD_BYTES_MAX} bytes")
        else:
            self.enqueue_req(conn)  # whatever else is wrong with it, the parser says

    def _refuse_now(self, conn: RoomConnection, status: int, message: str, code: str = "UNSUPPORTED") -> None:
        """Answer from the main loop, without waiting: who reads none of its answers before gets none of this one."""
        self.log.info("refused a request from %s: %s", _peer(conn.client), message)
        try:
            conn.sock.send(refusal(status, code, message), socket.MSG_DONTWAIT)
        except OSError:
            self._close(conn)
            return
        self._part(conn)

    def _part(self, conn: RoomConnection) -> None:
        """Close a connection so that the peer still gets our last answer: end our side, read the peer's out for a
        while."""
        try:
            linger = conn.sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
            if linger[0]:  # wire.response asks for a reset
                self._close(conn)
                return
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(conn)
            return
        conn.timeout = time.monotonic() + LINGER_S
        self.lingering.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_lingering_readable, conn))

    def _on_lingering_readable(self, conn: RoomConnection, sock: socket.socket) -> None:
        try:
            count = len(sock.recv(64 * 1024))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            count = 0
        conn.linger_bytes_left -= count
        if count == 0 or conn.linger_bytes_left <= 0:
            self.lingering.remove(conn)
            self._drop(conn)

    def _drop(self, conn: RoomConnection) -> None:
        self._unwatch(conn)
        self._close(conn)

    def _unwatch(self, conn: RoomConnection) -> None:
        self.poller.unregister(conn.sock)

    def _close(self, conn: RoomConnection) -> None:
        self.nr_conns -= 1
        conn.close()

    def _end_stragglers(self) -> None:
        """After the graceful stop: requests that still run lose their connections, so that their threads come to an
        end."""
        for conn in list(self.running):
            try:
                conn.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        concurrent.futures.wait(list(self.running.values()), timeout=STRAGGLER_WAIT_S)

    # -- a thread's side ---------------------------------------------------------------------------------------

    def handle(self, conn: RoomConnection) -> Any:
        conn.sock.setblocking(True)
        conn.init()
        conn.parser.unreader.unread(bytes(conn.head))
        conn.head = bytearray()
        again = super().handle(conn)
        while again is True and self._next_is_there(conn):
            again = super().handle(conn)
        return again

    def _next_is_there(self, conn: RoomConnection) -> bool:
        """Whether the head of the next request has come, so that this thread may go on with it. What has come of one
        is with the parser then, from where the main loop takes it too."""
        unreader = conn.parser.unreader
        if not self.alive or not self.tpool._work_queue.empty() or unreader.buf.getvalue():
            return False
        arrived = select.poll()
        arrived.register(conn.sock, select.POLLIN)
        if not arrived.poll(1000 * NEXT_S):
            return False
        try:
            data = conn.sock.recv(_HEAD_READ_BYTES, socket.MSG_DONTWAIT)
        except OSError:
            return False  # the main loop meets it again, as it does the end of the connection
        unreader.unread(data)
        return is_head_complete(data) and not data.startswith(_OPEN_HEADS)

    def handle_request(self, req: Any, conn: RoomConnection) -> Any:
        set_receive_timeout(conn.sock, self.limits.idle_timeout_s)
        req.body.speedy_request = req  # for wire.body.end_connection
        req.body.speedy_drains = self.drains  # for RequestBody.drain
        _check_head(req)
        return super().handle_request(req, conn)

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Answer what the parser refused, or what escaped from the app, in JSON."""
        status, code = 500, "UNKNOWN"
        for kind, kind_status, kind_code in _REFUSALS:
            if isinstance(exc, kind):
                status, code = kind_status, kind_code
                break
        if isinstance(exc, MemoryError):
            status, code, message = 503, "TOOMANYREQUESTS", "no memory for this request"
            memory.tell("a request")
        elif status < 500 or isinstance(exc, parser_errors.UnsupportedTransferCoding):
            message = str(exc)[:200]
            self.log.info("refused a request from %s: %s", _peer(addr), message)
        else:
            message = "internal error"
            self.log.error("request failed outside of the app", exc_info=exc)
        try:
            client.sendall(refusal(status, code, message))
        except OSError:
            self.log.debug("the refusal could not be sent")


class _Wakeups(PollableMethodQueue):  # type: ignore[misc]
    def close(self) -> None:
        """Leave the pipe open until the process ends.

        A thread that finishes late writes to it by number, and by then the number could be that of another file.
        """


def _check_head(request: Any) -> None:
    """What gunicorn lets pass. Raises a ParseException, which becomes a refusal."""
    has_host = False
    for name, value in request.headers:
        if name == "HOST":
            has_host = True
        elif name == "CONNECTION":
            # gunicorn knows the option where it stands alone ("Upgrade, close" is two of them).
            if "close" in (option.strip().lower() for option in value.split(",")):
                request.force_close()
        elif name == "TRANSFER-ENCODING" and value.strip().lower() != "chunked":
            # gunicorn would hand out compressed bytes as if they were the body (RFC 9112, 6.1).
            raise parser_errors.UnsupportedTransferCoding(value)
    if request.version >= (1, 1):
        request.version = (1, 1)  # what we speak is what we answer with
        if not has_host:
            raise parser_errors.InvalidHeader("HOST is missing")  # RFC 9112, 3.2


def _peer(address: Any) -> str:
    return str(address[0]) if isinstance(address, tuple) and address else "?"
