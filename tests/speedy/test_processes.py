"""Processes that are found again by process id and start time."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from speedy.processes import identity_of, is_alive, read_pid_file, start_detached, stop_all

STUBBORN = (
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(60)"
)


def test_this_process_is_alive_and_another_start_time_is_another_process() -> None:
    own = identity_of(os.getpid())
    assert own is not None
    assert is_alive(own)
    assert not is_alive(replace(own, started=own.started + 1))
    assert not is_alive(replace(own, boot_id="another boot"))


def test_a_zombie_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        identity = identity_of(child.pid)
        assert is_alive(identity)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet collected
        assert not is_alive(identity)


def test_a_started_process_is_found_by_its_file_and_stopped(tmp_path: Path) -> None:
    pid_file = tmp_path / "run.json"
    identity = start_detached(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        log=tmp_path / "log",
        directory=tmp_path,
        environment={},
        pid_file=pid_file,
    )
    assert read_pid_file(pid_file) == identity
    assert is_alive(identity)
    assert stop_all([identity], 10.0) == []
    assert not is_alive(identity)


def test_a_process_that_ignores_sigterm_is_killed_after_the_bound(tmp_path: Path) -> None:
    log = tmp_path / "log"
    identity = start_detached(
        [sys.executable, "-c", STUBBORN], log=log, directory=tmp_path, environment={}, pid_file=tmp_path / "run.json"
    )
    while not log.read_bytes():
        assert is_alive(identity)
    assert stop_all([identity], 0.2) == [identity]
    assert not is_alive(identity)


def test_a_stale_pid_file_never_hits_somebody_else(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        identity = identity_of(child.pid)
        assert identity is not None
        stop_all([replace(identity, started=identity.started - 1)], 0.1)
        assert child.poll() is None
        child.kill()


def test_a_damaged_pid_file_names_nobody(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("{")
    assert read_pid_file(tmp_path / "x") is None
    assert read_pid_file(tmp_path / "none") is None
