"""`speedy cluster` and its kin on a small cluster over SQLite: what they refuse, tell and leave behind."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from speedy.cluster import LocalCluster
from speedy.cluster_plan import Wanted, load_plan, make_plan, save_plan
from tests.speedy.embedded import speedy
from tests.speedy.pushing import Pusher

SMALL = ("--groups", "1", "--replicas", "1", "--imageservers", "1", "--registries", "1")


@pytest.fixture
def data() -> Iterator[Path]:
    parent = Path(tempfile.mkdtemp(prefix="speedy-cluster-"))
    yield parent / "c"
    if load_plan(parent / "c") is not None:
        LocalCluster(parent / "c").down()
    shutil.rmtree(parent, ignore_errors=True)


def test_a_cluster_comes_up_grows_by_a_command_and_goes_down(data: Path) -> None:
    done = speedy("cluster", "up", "--data", str(data), *SMALL, timeout_s=120)
    assert done.returncode == 0, done.stderr
    plan = load_plan(data)
    assert plan is not None
    assert plan.of("registry")[0].url in done.stdout
    digest = Pusher(plan.of("registry")[0].url).push_image("a", "v", [b"layer"])
    config = str(data / "speedy.toml")

    status = speedy("cluster", "status", "--data", str(data), "--json")
    assert status.returncode == 0, status.stdout
    assert {process["state"] for process in json.loads(status.stdout)["processes"]} == {"ready"}
    overview = speedy("status", "--config", config, COLUMNS="40")
    assert overview.returncode == 0, overview.stdout
    lines = [line for line in overview.stdout.splitlines() if "chunkserver-1-1" in line]
    assert any(plan.of("chunkserver")[0].url in line and " ago" in line for line in lines), overview.stdout

    assert speedy("cluster", "add-group", "--data", str(data), timeout_s=120).returncode == 0
    groups = json.loads(speedy("group", "list", "--config", config, "--json").stdout)["groups"]
    assert [group["members"][0]["server_id"] for group in groups] == ["chunkserver-1-1", "chunkserver-2-1"]
    member = groups[0]["members"][0]
    again = speedy("group", "add", f"{member['server_id']}={member['url']}", "--config", config)
    assert (again.returncode, "Group 1 " in again.stdout, again.stderr) == (0, True, "")
    mixed = speedy("group", "add", f"{member['server_id']}={member['url']}", "x=http://127.0.0.1:1", "--config", config)
    assert mixed.returncode == 1
    assert "chunkserver-1-1" in mixed.stderr

    elsewhere = speedy("status", "--data", str(data))
    assert (elsewhere.returncode, f"speedy cluster status --data {data}" in elsewhere.stderr) == (1, True)

    down = speedy("cluster", "down", "--data", str(data))
    assert (down.returncode, "killed" in down.stdout) == (0, False)
    told = speedy("cluster", "status", "--data", str(data))
    assert told.returncode == 1
    assert f"speedy cluster up --data {data}" in told.stderr
    assert speedy("cluster", "up", "--data", str(data), timeout_s=120).returncode == 0
    assert Pusher(plan.of("registry")[0].url).pull_image("a", "v") == digest

    mistyped = speedy("group", "add", "x=http://127.0.0.1:1", "--config", config)
    assert (mistyped.returncode, "Group 3 " in mistyped.stdout) == (0, True), mistyped.stderr
    assert "nothing answers from here at http://127.0.0.1:1." in mistyped.stderr


def test_a_process_that_cannot_start_is_shown_with_the_end_of_its_log(data: Path) -> None:
    plan = make_plan(None, Wanted(groups=1, replicas=1, imageservers=1, registries=1))
    data.mkdir()
    save_plan(data, plan)
    meta = plan.of("metaserver")[0]
    with socket.create_server(("127.0.0.1", meta.port)):
        done = speedy("cluster", "up", "--data", str(data), timeout_s=120)
    assert done.returncode == 1
    assert "metaserver-1 is not ready" in done.stderr
    assert f"port {meta.port}: Address already in use" in done.stderr


def test_a_directory_with_something_else_in_it_is_refused(data: Path) -> None:
    data.mkdir()
    (data / "photos").mkdir()
    done = speedy("cluster", "up", "--data", str(data), *SMALL)
    assert done.returncode == 1
    assert "photos" in done.stderr
    assert sorted(path.name for path in data.iterdir()) == ["photos"]


@pytest.mark.parametrize("command", ["down", "status", "add-group"])
def test_a_directory_without_a_cluster_is_named(data: Path, command: str) -> None:
    done = speedy("cluster", command, "--data", str(data))
    assert done.returncode == 1
    assert f"{data} holds no cluster" in done.stderr


def test_a_smaller_cluster_or_an_unknown_setting_is_refused(data: Path) -> None:
    data.mkdir()
    save_plan(data, make_plan(None, Wanted()))
    smaller = speedy("cluster", "up", "--data", str(data), "--groups", "1")
    assert smaller.returncode == 1
    assert "cannot be left out" in smaller.stderr
    unknown = speedy("cluster", "up", "--data", str(data), "--set", "registry.chunk_byte=1")
    assert unknown.returncode == 2
    assert "did you mean registry.chunk_bytes?" in unknown.stderr
