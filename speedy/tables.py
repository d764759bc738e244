"""Groups, members and processes as tables for people and as JSON for programs."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from chunkmaster.interface import GroupTable
from wire.values import to_json

if TYPE_CHECKING:
    from rich.table import Table

_STATE_STYLES = {"rw": "green", "ready": "green", "ro_full": "yellow", "not ready": "yellow", "new": "yellow"}
#: Characters of a line in a table; more than any name, address and reason together.
_WIDTH_MAX = 2000
#: blanks at a line's end, and the colours that end behind them
_BLANK_END = re.compile(r" +((?:\x1b\[[0-9;]*m)*)$")


def counted(count: int, noun: str) -> str:
    """1 volume, 2 volumes."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def table_as_json(table: GroupTable | None) -> Any:
    """The group table with plain names, None when it is not known."""
    return None if table is None else to_json(table)


def print_groups(table: GroupTable | None, trouble: str) -> None:
    from rich.console import Console  # noqa: PLC0415 - slow to import, of no use to --json
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    if table is None:
        Console().print(f"The groups are not known: {escape(trouble)}", style="red")
        return
    shown = Table("group", "member", "address", "state", box=None, pad_edge=False)
    for heading in ("chunks", "free", "total", "damaged", "bad volumes", "bad disks", "scrubbed", "heard"):
        shown.add_column(heading, justify="right")
    for group in table.groups:
        for number, member in enumerate(group.members):
            age = member.heartbeat_age_s
            shown.add_row(
                f"{group.group_id}" if number == 0 else "",
                escape(member.server_id),
                escape(member.url),
                f"[{_STATE_STYLES.get(member.state, 'red')}]{member.state}[/]",
                f"{member.chunks:,}",
                size(member.free_bytes),
                size(member.total_bytes),
                _trouble(member.damaged),
                _trouble(member.bad_volumes),
                _trouble(member.bad_disks),
                f"{_duration(time.time() - member.scrubbed_s)} ago" if member.scrubbed_s else "never",
                "never" if age is None else f"{age:.1f} s ago",
            )
    Console().print(f"cluster {table.cluster_id}", highlight=False)
    _print_whole(shown)
    if not table.groups:
        Console().print("There is no group yet: `speedy group add` adds one.", style="yellow")


def _trouble(count: int) -> str:
    return f"[red]{count:,}[/]" if count else "0"


def _duration(seconds: float) -> str:
    """In the largest unit of which there are two: 119 s, 2 min, 3 h, 9 d."""
    for unit, length_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def print_processes(rows: Sequence[tuple[str, str, str, str, str]]) -> None:
    """Rows of name, address, process id, state, reason; an empty line parts them from the groups."""
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    with_pid = any(row[2] for row in rows)
    shown = Table("room", "address", *(["process id"] if with_pid else []), "state", "reason", box=None, pad_edge=False)
    for name, address, pid, state, reason in rows:
        style = _STATE_STYLES.get(state, "red")
        cells = [escape(name), escape(address), *([pid] if with_pid else []), f"[{style}]{state}[/]", escape(reason)]
        shown.add_row(*cells)
    _print_whole(shown)
    Console().print()


def print_rows(left: Sequence[str], right: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows of plain text under the headings `left`, and behind them `right` (aligned to the right, as numbers are)."""
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    shown = Table(*left, box=None, pad_edge=False)
    for heading in right:
        shown.add_column(heading, justify="right")
    for row in rows:
        shown.add_row(*map(escape, row))
    _print_whole(shown)


def _print_whole(shown: Table) -> None:
    """At its natural width, however narrow the terminal or the pipe is: a name or an address that is cut short helps
    nobody, and each line stays one line for grep. Without the blanks behind it, which a narrow terminal would wrap."""
    from rich.console import Console  # noqa: PLC0415

    unlimited = Console(width=_WIDTH_MAX)
    console = Console(width=unlimited.measure(shown).maximum)
    with console.capture() as captured:
        console.print(shown, soft_wrap=True)
    console.file.writelines(_BLANK_END.sub(r"\1", line) + "\n" for line in captured.get().splitlines())


def size(count: int) -> str:
    """Bytes for people: 3 digits and a unit of 1024."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1000 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError
