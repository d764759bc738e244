"""What `speedy status` shows to people."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from chunkmaster.interface import Group, GroupTable, Member
from speedy.tables import _duration, print_groups, print_processes, print_rows


@pytest.fixture(autouse=True)
def narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")


def test_a_members_line_is_whole_on_a_narrow_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    member = Member("chunkserver-12-3", "http://storage-12-3.example.org:5400", "rw", 1 << 36, 1 << 40, 1234567, 0.7)
    print_groups(GroupTable("a-cluster", 3, (Group(12, 3, (member,)),)), "")
    shown = capsys.readouterr().out
    (line,) = (line for line in shown.splitlines() if member.server_id in line)
    assert line.split()[:5] == ["12", member.server_id, member.url, "rw", "1,234,567"]
    assert line.endswith("0.7 s ago")
    assert "cluster a-cluster" in shown


def test_a_member_in_trouble_tells_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    healthy = Member("cs-1", "http://a:1", "rw", 1 << 30, 1 << 40, 5, 0.7)
    troubled = replace(
        healthy, state="ro_full", bad_volumes=2, damaged=1234, bad_disks=7, scrubbed_s=time.time() - 3 * 86400
    )
    print_groups(GroupTable("a-cluster", 3, (Group(1, 2, (healthy, troubled)),)), "")
    lines = [line for line in capsys.readouterr().out.splitlines() if "http://a:1" in line]
    assert lines[0].split()[-7:] == ["0", "0", "0", "never", "0.7", "s", "ago"]
    assert "ro_full" in lines[1]
    assert lines[1].split()[-9:] == ["1,234", "2", "7", "3", "d", "ago", "0.7", "s", "ago"]


@pytest.mark.parametrize(
    ("seconds", "told"), [(-5, "0 s"), (119, "119 s"), (121, "2 min"), (7300, "2 h"), (2 * 86400, "2 d")]
)
def test_durations_are_told_in_a_unit_that_people_grasp(seconds: float, told: str) -> None:
    assert _duration(seconds) == told


def test_the_reason_of_a_process_is_whole_on_a_narrow_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "the database does not answer: connection to server at 10.0.0.20, port 5432 failed [refused]"
    print_processes([("registry-1", "http://127.0.0.1:5000", "", "not ready", reason)])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "registry-1" in line)
    assert line.endswith(f"not ready  {reason}")


def test_no_line_has_blanks_behind_it_that_a_narrow_terminal_would_wrap(capsys: pytest.CaptureFixture[str]) -> None:
    print_processes(
        [("registry-1", "http://127.0.0.1:5000", "", "not ready", "a long reason"), ("b", "c", "", "d", "")]
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines == [line.rstrip() for line in lines]
    assert len(lines) == 4


def test_a_table_has_as_many_lines_as_rows_and_its_headings(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(["name"], ["size"], [["a", "1"], ["b", "2"]])
    assert len(capsys.readouterr().out.split("\n")) == 1 + 2 + 1
