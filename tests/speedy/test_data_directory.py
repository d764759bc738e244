"""The embedded server's data directory: one server at a time, one cluster for ever."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from speedy.data_directory import FORMAT, open_data
from speedy.reach import embedded_url
from tests.needs import root
from wire.errors import Conflict, Unavailable


def test_a_fresh_directory_gets_an_identity_and_a_key_that_stay(tmp_path: Path) -> None:
    first = open_data(tmp_path / "data")
    first.close()
    key = first.key_file.read_bytes()
    assert stat.S_IMODE(first.key_file.stat().st_mode) == 0o600
    second = open_data(tmp_path / "data")
    second.close()
    assert second.cluster_id == first.cluster_id
    assert second.key_file.read_bytes() == key


def test_a_fresh_directory_is_nobody_elses_to_read(tmp_path: Path) -> None:
    data = tmp_path / "data"
    open_data(data).close()
    assert stat.S_IMODE(data.stat().st_mode) == 0o700


def test_the_second_opener_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    held = open_data(tmp_path)
    with pytest.raises(Conflict, match=rf"{tmp_path} is in use .*process id {os.getpid()}"):
        open_data(tmp_path)
    held.close()
    open_data(tmp_path).close()


def test_a_directory_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    open_data(tmp_path).close()
    identity = tmp_path / "speedy.json"
    told = json.loads(identity.read_text()) | {"format": FORMAT + 1}
    identity.write_text(json.dumps(told))
    with pytest.raises(Conflict, match=f"format {FORMAT + 1}"):
        open_data(tmp_path)
    assert json.loads(identity.read_text()) == told


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "cluster_id": 3}', '{"format": 1, "cluster_id": "x"}'])
def test_an_identity_that_cannot_be_understood_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "speedy.json").write_text(text)
    with pytest.raises(Conflict, match=r"speedy\.json"):
        open_data(tmp_path)


def test_a_directory_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(Conflict, match="photos"):
        open_data(tmp_path)
    assert not (tmp_path / "speedy.json").exists()


def test_a_first_start_that_was_cut_short_is_taken_up(tmp_path: Path) -> None:
    (tmp_path / "speedy.json.tmp").write_text('{"fo')
    (tmp_path / "speedy.lock").touch()
    open_data(tmp_path).close()


def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="file"):
        open_data(tmp_path / "file" / "data")


def test_a_file_in_its_place_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("photos")
    with pytest.raises(Unavailable, match=r"data cannot be used: it is no directory"):
        open_data(tmp_path / "data")
    assert (tmp_path / "data").read_text() == "photos"


def test_where_nobody_may_look_no_data_directory_is_found_or_made(tmp_path: Path) -> None:
    root()
    (tmp_path / "closed").mkdir(mode=0o000)
    data = tmp_path / "closed" / "data"
    os.seteuid(65534)
    try:
        with pytest.raises(Unavailable, match="Permission denied"):
            open_data(data)
        with pytest.raises(Unavailable, match="no server runs on"):
            embedded_url(data)
    finally:
        os.seteuid(0)
    assert not data.exists()
