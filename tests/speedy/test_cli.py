"""The command line: what it refuses, and how it says so."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from speedy.cli import _speedy
from tests.speedy.embedded import speedy


def test_version_is_told() -> None:
    done = speedy("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("speedy ")


def test_help_lists_every_command() -> None:
    done = speedy("--help")
    for command in ("serve", "cluster", "group", "status", "config", "migrate", "registry", "chunkserver"):
        assert command in done.stdout


@pytest.mark.parametrize(
    "command", ["serve", "registry", "imageserver", "metaserver", "chunkmaster", "chunkserver", "migrate"]
)
def test_every_command_that_reads_settings_tells_all_mistakes_at_once(tmp_path: Path, command: str) -> None:
    file = tmp_path / "x.toml"
    file.write_text('[registry]\nlissten = "127.0.0.1:0"\nthreads = "many"\n')
    done = speedy(command, "--config", str(file), SPEEDY_LOG_LEVEL="loud")
    assert done.returncode == 1
    assert "3 settings are wrong" in done.stderr
    assert "did you mean listen?" in done.stderr
    assert 'registry.threads = "many"' in done.stderr
    assert "SPEEDY_LOG_LEVEL" in done.stderr
    assert "Traceback" not in done.stderr


def test_config_show_tells_value_and_source_of_every_setting(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('[registry]\nchunk_bytes = "1MiB"\n')
    done = speedy("config", "show", "--config", str(file), "--json", SPEEDY_LOG_LEVEL="debug")
    rows = {row["key"]: row for row in json.loads(done.stdout)}
    assert (rows["registry.chunk_bytes"]["value"], rows["registry.chunk_bytes"]["source"]) == ("1MiB", "file")
    assert (rows["log.level"]["value"], rows["log.level"]["source"]) == ("debug", "environment")
    assert rows["registry.threads"]["source"] == "default"
    table = speedy("config", "show", "--config", str(file), COLUMNS="200").stdout
    assert "registry.chunk_bytes" in table
    assert "1MiB" in table


def test_config_check_accepts_good_settings_and_refuses_bad_ones(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("")
    assert speedy("config", "check", "--config", str(file)).returncode == 0
    assert speedy("config", "check", "--config", str(file), SPEEDY_REGISTRY_LISTEN="x").returncode == 1


def test_a_key_is_made_for_its_owner_only_and_never_replaced(tmp_path: Path) -> None:
    file = tmp_path / "cluster.key"
    assert speedy("key", "generate", str(file)).returncode == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    assert speedy("key", "generate", str(file)).returncode == 1
    assert file.read_bytes() == before


@pytest.mark.parametrize("command", ["serve", "registry"])
def test_an_address_that_others_reach_is_refused_with_the_reason(tmp_path: Path, command: str) -> None:
    variables = {
        "SPEEDY_CLUSTER_KEY_FILE": str(tmp_path / "key"),
        "SPEEDY_CLUSTER_METASERVERS": "http://127.0.0.1:1",
        "SPEEDY_CLUSTER_IMAGESERVERS": "http://127.0.0.1:1",
        "SPEEDY_REGISTRY_DATA": str(tmp_path / "data"),
    }
    done = speedy(command, "--listen", "0.0.0.0:0", **variables)
    assert done.returncode == 1
    assert "no access control" in done.stderr
    assert "make serve ARGS=--insecure-anonymous" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("room", ["registry", "imageserver", "metaserver", "chunkmaster", "chunkserver"])
def test_a_room_names_the_settings_that_it_cannot_do_without(room: str) -> None:
    done = speedy(room)
    assert done.returncode == 1
    assert "cluster.key_file" in done.stderr


def test_status_without_a_server_says_so(tmp_path: Path) -> None:
    done = speedy("status", "--data", str(tmp_path))
    assert done.returncode == 1
    assert "no server runs on" in done.stderr


@pytest.mark.parametrize(("room", "idle_s"), [("registry", 7.0), ("serve", 7.0), ("metaserver", 60.0)])
def test_the_registrys_limit_of_silence_holds_for_the_connection_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: str, idle_s: float
) -> None:
    served: dict[str, Any] = {}
    monkeypatch.setattr("wire.server.serve", lambda build, **options: served.update(options) or 0)
    monkeypatch.setattr("wire.logs.configure", lambda level, form: None)
    file = tmp_path / "speedy.toml"
    file.write_text(
        '[cluster]\nkey_file = "key"\nmetaservers = ["http://127.0.0.1:1"]\nimageservers = ["http://127.0.0.1:1"]\n'
        '[database]\nurl = "sqlite:///x.db"\n[registry]\ndata = "data"\nbody_idle_s = 7\n'
    )
    done = CliRunner().invoke(_speedy, [room, "--config", str(file)])
    assert done.exit_code == 0, done.output
    assert served["idle_timeout_s"] == idle_s
