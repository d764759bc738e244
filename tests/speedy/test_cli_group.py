"""`speedy group add` and a ChunkMaster that is not there yet, as at the first start of a whole cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from speedy import waiting
from speedy.waiting import until_answered
from tests.chunkmaster.rooms import KEY
from tests.ports import free_port
from tests.speedy.embedded import environment
from tests.wire.serving import serving
from wire.errors import Conflict, Overloaded, Unavailable


def test_a_group_is_added_as_soon_as_the_master_answers(tmp_path: Path) -> None:
    KEY.save(tmp_path / "key")
    port = free_port()
    variables = {
        "SPEEDY_CLUSTER_MASTERS": f"http://127.0.0.1:{port}",
        "SPEEDY_CLUSTER_KEY_FILE": str(tmp_path / "key"),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "speedy", "group", "add", "cs-1=http://127.0.0.1:1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
    ) as adding:
        try:
            assert adding.stderr is not None
            assert "trying again" in adding.stderr.readline()
            arguments = {"database_url": f"sqlite:///{tmp_path}/meta.db", "key_file": str(tmp_path / "key")}
            with serving("tests.chunkmaster.rooms:build_master", arguments, port=port):
                said, errors = adding.communicate(timeout=60)
            assert (adding.returncode, "Group 1 has the members cs-1." in said) == (0, True), errors
        finally:
            adding.kill()


def test_a_command_gives_up_at_last_and_at_once_where_no_time_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.5)
    monkeypatch.setattr(waiting, "_AGAIN_S", 0.01)
    asked: list[type[Exception]] = []
    told: list[str] = []

    def answer(*errors: type[Exception]) -> None:
        asked.append(errors[min(len(asked), len(errors) - 1)])
        raise asked[-1]("no")

    with pytest.raises(Unavailable):
        until_answered(lambda: answer(Overloaded, Unavailable), told.append)
    assert len(asked) > 2
    assert told == ["no"], "why, once"
    asked.clear()
    with pytest.raises(Conflict):
        until_answered(lambda: answer(Conflict), told.append)
    assert len(asked) == 1
