"""wire.files: files that are there whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from wire.files import replace_file


def test_a_file_is_made_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "told.json"
    (tmp_path / "told.json.tmp").write_text("what a process before left, which was longer")
    for text in ("first\n", "second, é\n", ""):
        replace_file(file, text)
        assert file.read_text("utf-8") == text
    assert os.listdir(tmp_path) == ["told.json"]


def test_only_whom_the_mode_names_can_read_it(tmp_path: Path) -> None:
    replace_file(tmp_path / "secret", "x", 0o600)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_the_bytes_are_durable_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "told.json"
    synced: list[tuple[bool, bool]] = []
    fsync = os.fsync

    def seen(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), file.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    replace_file(file, "x")
    assert synced == [(False, False), (True, True)]


def test_what_was_there_stays_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "told.json"
    replace_file(file, "old")

    def fail(_descriptor: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        replace_file(file, "new")
    assert file.read_text() == "old"
