"""A whole cluster on this machine: every room as a process of its own, started, watched for readiness, stopped.

The processes outlive the command that starts them; the directory (speedy.cluster_plan) holds all that is known of them.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chunkmaster.client import HttpChunkMaster
from chunkmaster.interface import GroupTable
from speedy.cluster_plan import ROOMS, Plan, Process, Wanted, database_url, load_plan, make_plan, save_plan
from speedy.processes import KILL_WAIT_S, ProcessIdentity, is_alive, read_pid_file, start_detached, stop_all
from wire.auth import ClusterKey
from wire.errors import Conflict, Unavailable

READY_TIMEOUT_S = 60.0
WRITABLE_WAIT_S = 10.0
STOP_TIMEOUT_S = 35.0  # longer than a room's graceful stop
_PROBE_TIMEOUT_S = 5.0
_ANSWER_BYTES_MAX = 64 * 1024
_POLL_S = 0.05
# Who waits for a `down` waits for all of it: each room may take its own time to stop, and a little more to be killed.
_LOCK_WAIT_S = len(ROOMS) * (STOP_TIMEOUT_S + KILL_WAIT_S)
_LOG_TAIL_LINES = 15
_LOG_TAIL_BYTES = 16 * 1024
_LOG_LINE_CHARS_MAX = 600  # the file has the whole of it

#: what a directory may hold before there is a plan: a command that was killed then is simply given again
_BEFORE_THE_PLAN = frozenset({"cluster.key", "cluster.lock", "cluster.json.tmp", "lost+found"})
_KEY_DRAFT = ".cluster.key."  # and a random rest

Report = Callable[[str], None]


class ClusterFailed(Exception):
    """Processes that did not become ready; the message says which, why, and what their logs end with."""


@dataclass(frozen=True, slots=True)
class ProcessState:
    """`state`: "ready" (`reason`: why writes are refused, if they are), "not ready" (`reason` says why), "down"."""

    process: Process
    pid: int | None
    state: str
    reason: str


class LocalCluster:
    def __init__(self, directory: Path, report: Report = lambda line: None) -> None:
        self.directory = directory.absolute()
        self._report = report

    def up(self, wanted: Wanted | None = None, *, timeout_s: float = READY_TIMEOUT_S) -> Plan:
        """Bring the cluster to `wanted` and start what does not run; returns when every process is ready.

        Harmless to repeat; what runs is left alone. Raises ClusterFailed, BadRequest, Conflict.
        """
        deadline_s = time.monotonic() + timeout_s
        self._prepare()
        with self._alone():
            known = load_plan(self.directory)
            plan = make_plan(known, wanted or Wanted())
            if plan.database_url is not None:
                self._migrate(plan)  # before the plan, which fixes the database: a mistyped address may be given anew
            save_plan(self.directory, plan)
            if plan.database_url is None:
                self._migrate(plan)
            started = [process for process in plan.processes if self._start(process)]
            self._report(
                f"started {len(started)} of {len(plan.processes)} processes" if started else "all processes run"
            )
            # A group takes part as soon as it is added: its members come first.
            self._wait_ready((*plan.of("chunkmaster"), *plan.of("chunkserver")), deadline_s)
            self._add_groups(plan)
            self._wait_ready(plan.processes, deadline_s)
            self._wait_writable(plan.of("registry"), min(deadline_s, time.monotonic() + WRITABLE_WAIT_S))
        return plan

    def add_group(self, *, timeout_s: float = READY_TIMEOUT_S) -> int:
        """Start the ChunkServers of one more group and add it, while everything runs; the group's number."""
        plan = self.plan()
        groups = len(plan.group_members()) + 1
        self.up(Wanted(groups=groups), timeout_s=timeout_s)
        return groups

    def down(self, *, timeout_s: float = STOP_TIMEOUT_S) -> list[str]:
        """Stop every process: front ends first, so that running requests end whole; each room's at once, within
        `timeout_s` of their own. Names of those that were killed."""
        plan = self.plan()
        killed: list[str] = []
        with self._alone():
            for room in reversed(ROOMS):
                running = {process.name: self._identity(process) for process in plan.of(room)}
                alive = {name: found for name, found in running.items() if found is not None and is_alive(found)}
                late = stop_all(list(alive.values()), timeout_s)
                killed += [name for name, found in alive.items() if found in late]
            for process in plan.processes:
                self._pid_file(process.name).unlink(missing_ok=True)
        return killed

    def states(self) -> list[ProcessState]:
        return [self._state(process) for process in self.plan().processes]

    def group_table(self) -> GroupTable:
        """What the ChunkMaster says. Raises Unavailable."""
        with self.master() as master:
            table = master.group_table()
            assert table is not None  # asked without a version
            return table

    @contextmanager
    def master(self) -> Iterator[HttpChunkMaster]:
        key = ClusterKey.load(self.directory / "cluster.key")
        master = HttpChunkMaster([process.url for process in self.plan().of("chunkmaster")], key)
        try:
            yield master
        finally:
            master.close()

    def plan(self) -> Plan:
        plan = load_plan(self.directory)
        if plan is None:
            raise Conflict(f"{self.directory} holds no cluster; `speedy cluster up --data {self.directory}` makes one")
        return plan

    def identity(self, name: str) -> ProcessIdentity | None:
        """The running process `name`, None when it does not run."""
        identity = read_pid_file(self._pid_file(name))
        return identity if is_alive(identity) else None

    def start(self, *names: str, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Start these processes alone, unless they run, and wait until they are ready. Raises ClusterFailed."""
        plan = self.plan()
        processes = [process for process in plan.processes if process.name in names]
        assert len(processes) == len(names), f"{names}: the plan has {[process.name for process in plan.processes]}"
        with self._alone():
            for process in processes:
                self._start(process)
        self._wait_ready(processes, time.monotonic() + timeout_s)

    def log_file(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"

    # -- pieces ----------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        if self.directory.exists() and load_plan(self.directory) is None:
            foreign = sorted(
                name
                for name in os.listdir(self.directory)
                if name not in _BEFORE_THE_PLAN and not name.startswith(_KEY_DRAFT)
            )
            if foreign:
                raise Conflict(
                    f"directory {self.directory} holds {', '.join(foreign[:5])} but no cluster.json: give an empty one"
                )
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            key_file = self.directory / "cluster.key"
            if not key_file.exists():
                ClusterKey.generate().save(key_file)
        except OSError as exc:
            raise Unavailable(f"directory {self.directory} cannot be used: {exc.strerror or exc}") from exc

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One command at a time changes a cluster."""
        lock_fd = os.open(self.directory / "cluster.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline_s = time.monotonic() + _LOCK_WAIT_S
            while True:
                try:
                    fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as exc:
                    if time.monotonic() > deadline_s:
                        raise Conflict(f"another command is changing the cluster in {self.directory}") from exc
                    time.sleep(_POLL_S)
            yield
        finally:
            os.close(lock_fd)

    def _migrate(self, plan: Plan) -> None:
        from speedy.schema import migrate_each  # noqa: PLC0415 - slow to import, and of no use to down and status

        migrate_each(
            database_url(self.directory, plan, "chunkmaster"), database_url(self.directory, plan, "metaserver")
        )

    def _start(self, process: Process) -> bool:
        """Start a process unless it runs; True if it was started."""
        if is_alive(self._identity(process)):
            return False
        (self.directory / "rooms" / process.name).mkdir(exist_ok=True)
        config = self.directory / "config" / f"{process.name}.toml"
        # Variables meant for this command must not reach the rooms: their files say all.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SPEEDY_")}
        environment["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
        start_detached(
            [sys.executable, "-m", "speedy", process.room, "--config", str(config)],
            log=self.log_file(process.name),
            directory=self.directory,
            environment=environment,
            pid_file=self._pid_file(process.name),
        )
        return True

    def _add_groups(self, plan: Plan) -> None:
        with self.master() as master:
            for members in plan.group_members().values():
                master.add_group(tuple((member.name, member.url) for member in members))

    def _wait_ready(self, processes: Sequence[Process], deadline_s: float) -> None:
        waiting = {process.name: process for process in processes}
        reasons: dict[str, str] = {}
        while waiting:
            for name, process in list(waiting.items()):
                state = self._state(process)
                if state.state == "ready":
                    del waiting[name]
                else:
                    reasons[name] = "it ended" if state.state == "down" else state.reason
            dead = [name for name in waiting if reasons[name] == "it ended"]
            if waiting and (dead or time.monotonic() > deadline_s):
                raise ClusterFailed(self._told([waiting[name] for name in dead or waiting], reasons))
            if waiting:
                time.sleep(_POLL_S)

    def _wait_writable(self, registries: Sequence[Process], deadline_s: float) -> None:
        """Until all take pushes: right after the start they have yet to hear of the groups. What refuses writes for
        longer, a full disk for one, is told by `status` and is no reason against a cluster that serves."""
        while any(self._state(registry).reason for registry in registries) and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)

    def _told(self, failed: Sequence[Process], reasons: dict[str, str]) -> str:
        parts = []
        for process in failed:
            log = self.log_file(process.name)
            parts.append(f"{process.name} is not ready: {reasons[process.name]}\n{log} ends with:\n{_tail(log)}")
        return "\n".join(parts)

    def _state(self, process: Process) -> ProcessState:
        identity = self._identity(process)
        if identity is None or not is_alive(identity):
            return ProcessState(process, None, "down", "")
        ready, reason = readiness(process.url)
        return ProcessState(process, identity.pid, "ready" if ready else "not ready", reason)

    def _identity(self, process: Process) -> ProcessIdentity | None:
        return read_pid_file(self._pid_file(process.name))

    def _pid_file(self, name: str) -> Path:
        return self.directory / "run" / f"{name}.json"


def readiness(url: str) -> tuple[bool, str]:
    """If the room at `url` is ready, and why it is not, or why it takes no writes although it is."""
    try:
        # No proxy of the environment stands between rooms.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{url}/readyz", timeout=_PROBE_TIMEOUT_S) as answer:
            return True, _writes_refused(answer.read(_ANSWER_BYTES_MAX))
    except urllib.error.HTTPError as exc:
        try:
            return False, str(json.loads(exc.read(_ANSWER_BYTES_MAX))["error"]["message"])
        except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
            return False, f"status {exc.code}"
    except (ValueError, http.client.HTTPException):  # whoever listens there speaks something else
        return False, "what answers there is no room of Speedy"
    except OSError as exc:
        return False, str(getattr(exc, "reason", exc))


def _writes_refused(answer: bytes) -> str:
    try:
        told = json.loads(answer)
        return f"writes are refused: {told['reason']['message']}" if told.get("writes") == "refused" else ""
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError as exc:
        return f"  ({exc.strerror})"
    return "\n".join(f"  {line[:_LOG_LINE_CHARS_MAX]}" for line in lines[-_LOG_TAIL_LINES:])
