"""Processes that outlive the command that started them: found by process id and start time, stopped within a bound.

A process id alone is no identity: it may belong to somebody else by now.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_POLL_S = 0.02
KILL_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """`started` counts clock ticks since the boot `boot_id`: together they never name two processes."""

    pid: int
    started: int
    boot_id: str


def identity_of(pid: int) -> ProcessIdentity | None:
    """None when there is no such process, or only its remains (a zombie)."""
    try:
        # The name in parentheses may hold spaces and parentheses: what follows the last one is safe to split.
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    state, started = after_name[0], int(after_name[19])
    return None if state in ("Z", "X") else ProcessIdentity(pid, started, boot_id)


def is_alive(identity: ProcessIdentity | None) -> bool:
    return identity is not None and identity_of(identity.pid) == identity


def start_detached(
    argv: Sequence[str], *, log: Path, directory: Path, environment: Mapping[str, str], pid_file: Path
) -> ProcessIdentity:
    """Start a process in a session (and so a process group) of its own, its output appended to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own program with our own arguments
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
            env=dict(environment),
            start_new_session=True,
        )
    identity = identity_of(process.pid) or ProcessIdentity(process.pid, 0, "ended at once")
    temporary = pid_file.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(identity)))
    temporary.rename(pid_file)
    return identity


def read_pid_file(pid_file: Path) -> ProcessIdentity | None:
    """The process that the file names, None when there is no (readable) file. Ask is_alive about it."""
    try:
        told = json.loads(pid_file.read_text())
        return ProcessIdentity(int(told["pid"]), int(told["started"]), str(told["boot_id"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def stop_all(identities: Sequence[ProcessIdentity], timeout_s: float) -> list[ProcessIdentity]:
    """SIGTERM to all, SIGKILL to the groups of those that are still there after `timeout_s`; returns the killed."""
    for identity in identities:
        _signal(identity, signal.SIGTERM)
    late = _wait_gone(identities, timeout_s)
    for identity in late:
        _signal(identity, signal.SIGKILL, group=True)
    _wait_gone(late, KILL_WAIT_S)
    return late


def _signal(identity: ProcessIdentity, number: int, *, group: bool = False) -> None:
    with contextlib.suppress(ProcessLookupError):
        if is_alive(identity):
            (os.killpg if group else os.kill)(identity.pid, number)


def _wait_gone(identities: Sequence[ProcessIdentity], timeout_s: float) -> list[ProcessIdentity]:
    deadline_s = time.monotonic() + timeout_s
    left = list(identities)
    while left and time.monotonic() < deadline_s:
        left = [identity for identity in left if is_alive(identity)]
        if left:
            time.sleep(_POLL_S)
    return left
