"""The table of clients and features (CLIENTS.md), made of the tests: a row says what a passing test has shown.

    python -m tests.clients.table        # writes it anew after a test with @pytest.mark.feature has come or gone

What stands before and after the two marks in the file is written by hand.
"""

import importlib
import inspect
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.needs import program

DOCUMENT = Path(__file__).with_name("CLIENTS.md")
_BEGIN, _END = "<!-- made by tests/clients/table.py: begin -->\n", "<!-- end -->\n"

TARGETS = ("embedded", "cluster", "compose")
VERSION_COMMANDS = {
    "buildah": ["buildah", "--version"],
    "containerd": ["containerd", "--version"],
    "curl": ["curl", "--version"],
    "docker": ["dockerd", "--version"],
    "podman": ["podman", "--version"],
    "skopeo": ["skopeo", "--version"],
    "umoci": ["umoci", "--version"],
}


@dataclass(frozen=True, slots=True, order=True)
class Row:
    client: str
    what: str
    test: str  # file::function
    targets: tuple[str, ...]


def rows() -> list[Row]:
    """All features that the tests of this folder are marked with, by client."""
    found: list[Row] = []
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(f"tests.clients.{path.stem}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            for mark in _marks(function, "feature"):
                client, what = mark.args
                found.append(Row(client, what, f"{path.name}::{name}", _targets(module, function)))
    return sorted(found)


def table() -> str:
    head = "| client | what | " + " | ".join(TARGETS) + " | test |\n" + "|---" * (3 + len(TARGETS)) + "|\n"
    return head + "".join(
        f"| {row.client} | {row.what} | "
        + " | ".join("✓" if target in row.targets else "" for target in TARGETS)
        + f" | `{row.test}` |\n"
        for row in rows()
    )


def written_table() -> str:
    """The part of the file that is made here, as it stands there."""
    return DOCUMENT.read_text().partition(_BEGIN)[2].partition(_END)[0]


def written_versions() -> dict[str, str]:
    """Client -> version, from the file's lists of versions."""
    return dict(re.findall(r"^\| ([a-z]+) \| (\d[\w.]*) \|", DOCUMENT.read_text(), re.MULTILINE))


def installed_version(client: str) -> str:
    """Its first number with a dot; ends the test where the client is not installed."""
    command, *arguments = VERSION_COMMANDS[client]
    told = subprocess.run([program(command), *arguments], capture_output=True, text=True, check=True, timeout=60)
    version = re.search(r"\d+\.\d+(\.\d+)?", told.stdout)
    assert version is not None, told.stdout
    return version[0]


def _marks(owner: Any, name: str) -> Iterator[Any]:
    marks = getattr(owner, "pytestmark", [])
    return (mark for mark in (marks if isinstance(marks, list) else [marks]) if mark.name == name)


def _targets(module: ModuleType, function: Any) -> tuple[str, ...]:
    """What the test runs against: the targets that it or its file chooses, else all."""
    if "target" not in inspect.signature(function).parameters:
        return TARGETS[:1]  # a server of its own
    for owner in (function, module):
        for mark in _marks(owner, "parametrize"):
            if mark.args[0] == "target":
                return tuple(mark.args[1])
    return TARGETS


def _write() -> None:
    before, _, rest = DOCUMENT.read_text().partition(_BEGIN)
    DOCUMENT.write_text(f"{before}{_BEGIN}{table()}{_END}{rest.partition(_END)[2]}")


if __name__ == "__main__":
    _write()
