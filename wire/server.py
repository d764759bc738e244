"""Runs one room's WSGI app: gunicorn's arbiter with one worker process of many threads.

The arbiter stays small: the app and everything under it is built in the worker, after the fork (engines, pools and
threads do not survive one). A worker that dies is replaced; when the arbiter dies the worker ends at once. SIGTERM
and SIGINT end both after the running requests, within `graceful_timeout_s`; a second SIGINT does not wait.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

from wire.errors import SpeedyError
from wire.memory import live_with_limit
from wire.worker import STOP_SIGNALS, RoomWorker, WorkerLimits, die_with_parent

log = logging.getLogger("speedy.server")

#: exit codes of serve() besides 0
EXIT_BIND_FAILED = 2
EXIT_BUILD_FAILED = 3  # gunicorn's WORKER_BOOT_ERROR: its arbiter then stops instead of trying for ever

#: the longest silence inside a body, either way, where nothing else is said
IDLE_TIMEOUT_S = 60.0

#: what close() of a room may take after its requests have ended (checkpoints), before the worker is killed
CLOSE_TIMEOUT_S = 10.0

#: longest start of a room (recovery of a large data directory)
BUILD_TIMEOUT_S = 3600.0

#: gunicorn's own upper limit
REQUEST_LINE_BYTES_MAX = 8190

_BACKLOG = 2048
_WORKER_SILENCE_S = 60


class StartRefused(Exception):
    """For build(): this room cannot start, and the message says all that a person needs to know."""


@dataclass(frozen=True, slots=True)
class RoomApp:
    """What build() gives: a WSGI callable, and what to call once when the worker ends."""

    app: Callable[..., Any]
    close: Callable[[], None]


def serve(
    build: Callable[[], RoomApp],
    *,
    host: str,
    port: int,
    threads: int,
    name: str,
    graceful_timeout_s: float = 30.0,
    head_timeout_s: float = 30.0,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
    keepalive_s: int = 75,
    connections_max: int = 4096,
    on_listening: Callable[[str, int], None] | None = None,
) -> int:
    """Serve until a signal ends it; the exit code for the process. To be called in the main thread.

    `port` 0 lets the kernel choose; `on_listening(host, port)` is called in the arbiter once the port is bound.
    Nothing else is opened. `head_timeout_s`: a request's head, first to last byte. `idle_timeout_s`: the longest
    silence inside a body, either way. A build() that raises ends the server: SpeedyError, OSError, ValueError and
    StartRefused are told by their message alone.
    """
    try:
        listener = _listen(host, port)
    except OSError as error:
        log.error("%s cannot listen on %s port %d: %s", name, host, port, error.strerror or error)
        return EXIT_BIND_FAILED
    host, port = listener.getsockname()[:2]
    _take_all_descriptors()
    if on_listening is not None:
        on_listening(host, port)
    log.info("listening", extra={"room": name, "host": host, "port": port, "pid": os.getpid()})
    application = _RoomApplication(
        build,
        {
            "bind": [f"fd://{listener.detach()}"],
            "workers": 1,
            "threads": threads,
            "worker_class": RoomWorker,
            "worker_connections": connections_max,
            "keepalive": keepalive_s,
            "graceful_timeout": int(graceful_timeout_s + CLOSE_TIMEOUT_S),
            "timeout": _WORKER_SILENCE_S,
            "backlog": _BACKLOG,
            "proc_name": name,
            "limit_request_line": REQUEST_LINE_BYTES_MAX,
            "limit_request_fields": 100,
            "limit_request_field_size": 32 * 1024,
            "logger_class": _ServerLog,
            "worker_tmp_dir": "/dev/shm" if Path("/dev/shm").is_dir() else None,  # noqa: S108
            "http_parser": "python",
            "forwarder_headers": "",  # no client may name SCRIPT_NAME or PATH_INFO
            "control_socket_disable": True,
            "post_fork": _after_fork,
            "worker_exit": _worker_ends,
        },
        WorkerLimits(head_timeout_s, idle_timeout_s),
        graceful_timeout_s,
    )
    arbiter_pid = os.getpid()
    try:
        _RoomArbiter(application).run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        if os.getpid() != arbiter_pid:
            # The worker comes up here too: what stands after serve() in the caller is the arbiter's business alone.
            _leave(code)
        log.info("stopped", extra={"room": name, "code": code})
        return code
    return 0


def _listen(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _take_all_descriptors() -> None:
    """Raise the soft limit to the hard one: a store keeps one descriptor per volume (1,000 per TiB), a server one per
    connection, and the usual soft limit is 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _leave(code: int) -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit(): a thread that outlived the graceful stop must not hold the process.
    os._exit(code)


class _RoomApplication(BaseApplication):  # type: ignore[misc]
    def __init__(
        self, build: Callable[[], RoomApp], options: dict[str, Any], limits: WorkerLimits, graceful_timeout_s: float
    ) -> None:
        self._build = build
        self._options = options
        self.limits = limits
        self.graceful_timeout_s = graceful_timeout_s
        self.room: RoomApp | None = None
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def load(self) -> Callable[..., Any]:
        """Called in the worker."""
        try:
            self.room = self._build()
        except (SpeedyError, OSError, ValueError, StartRefused) as error:
            log.error("cannot start: %s", error, exc_info=log.isEnabledFor(logging.DEBUG))
            sys.exit(EXIT_BUILD_FAILED)
        except Exception:
            log.exception("cannot start")
            sys.exit(EXIT_BUILD_FAILED)
        return self.room.app


class _RoomArbiter(Arbiter):  # type: ignore[misc]
    def __init__(self, application: _RoomApplication) -> None:
        self._ignores_hangup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        super().__init__(application)

    def spawn_worker(self) -> None:
        """A stop that meets the new worker before it has handlers of its own would be lost on it."""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            super().spawn_worker()
        except OSError as error:  # no process is to be had; gunicorn would end, and take the listening socket along
            if os.getpid() != self.pid:
                raise
            log.error("cannot start a worker, trying again: %s", error.strerror or error)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def handle_int(self) -> None:
        """As SIGTERM: running requests finish. (gunicorn would cut them.)"""
        raise StopIteration

    def handle_hup(self) -> None:
        """The terminal is gone. (gunicorn would start a second worker beside the first, on the same data directory.)"""
        if not self._ignores_hangup:
            raise StopIteration

    def handle_usr2(self) -> None:
        """A second server on the same data directory is never wanted; nor more workers, or fewer."""

    handle_ttin = handle_usr2
    handle_ttou = handle_usr2


class _ServerLog(Logger):  # type: ignore[misc]
    """Sends gunicorn's own lines through wire.logs; requests are logged by wire.service."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self._access_log_enabled = False
        self.error_log.propagate = True
        self.loglevel = self.error_log.getEffectiveLevel()

    def access(self, *args: Any) -> None:
        pass


def _after_fork(arbiter: Any, worker: Any) -> None:
    die_with_parent(arbiter.pid)
    live_with_limit()
    # The arbiter waits longer than the worker, so that the worker can close its room before it is killed.
    worker.cfg.set("graceful_timeout", int(worker.app.graceful_timeout_s))
    _keep_alive_while_building(worker)


def _keep_alive_while_building(worker: Any) -> None:
    """The arbiter kills a silent worker, and recovery of a data directory may take long."""

    def notify() -> None:
        waiting = threading.Event()
        for _ in range(int(BUILD_TIMEOUT_S)):
            if worker.booted:
                return
            worker.notify()
            waiting.wait(1.0)

    threading.Thread(target=notify, name="building", daemon=True).start()


def _worker_ends(_arbiter: Any, worker: Any) -> None:
    room = worker.app.room
    if room is None:  # never built, or this is the arbiter
        return
    worker.app.room = None
    try:
        room.close()
    except Exception:
        log.exception("closing the room failed")
