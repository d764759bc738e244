"""A local cluster's directory and processes, without its rooms."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from speedy.cluster import LocalCluster
from speedy.cluster_plan import Wanted, make_plan, save_plan
from speedy.processes import start_detached
from tests.ports import free_port
from wire.errors import Unavailable

_ON_SIGTERM = """
import signal, sys, threading
told = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: told.set())
print("ready", flush=True)
told.wait(60)
threading.Event().wait(float(sys.argv[1]))
"""


def test_each_room_has_the_whole_time_to_stop_also_when_one_before_it_used_up_its_own(tmp_path: Path) -> None:
    plan = make_plan(None, Wanted(groups=1, replicas=1, imageservers=1, registries=1))
    save_plan(tmp_path, plan)
    for name, ends_after_s in (("registry-1", "60"), ("chunkserver-1-1", "1.5")):
        log = tmp_path / "logs" / name
        start_detached(
            [sys.executable, "-c", _ON_SIGTERM, ends_after_s],
            log=log,
            directory=tmp_path,
            environment={},
            pid_file=tmp_path / "run" / f"{name}.json",
        )
        while not log.read_bytes():
            assert LocalCluster(tmp_path).identity(name) is not None
    assert LocalCluster(tmp_path).down(timeout_s=3.0) == ["registry-1"]


def test_a_command_that_was_killed_before_there_was_a_plan_can_be_given_again(tmp_path: Path) -> None:
    for name in ("cluster.lock", "cluster.json.tmp", ".cluster.key.0123456789abcdef"):
        (tmp_path / name).touch()
    LocalCluster(tmp_path)._prepare()
    assert (tmp_path / "cluster.key").exists()


def test_an_address_where_no_database_answers_is_not_kept(tmp_path: Path) -> None:
    wanted = Wanted(groups=1, replicas=1, database_url=f"postgresql://speedy@127.0.0.1:{free_port()}/speedy")
    with pytest.raises(Unavailable, match="cannot be migrated"):
        LocalCluster(tmp_path).up(wanted)
    assert not (tmp_path / "cluster.json").exists()
