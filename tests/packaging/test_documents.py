"""What the documents name is there: files, tests, settings, commands, targets of make."""

import re
import shlex
from pathlib import Path

import click
import pytest

from speedy import cli
from wire.settings import Settings
from wire.settings_load import SECTIONS, effective

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("ARCHITECTURE.md", "README.md", "CHANGELOG.md", "docs/api.md")

#: a path stands without the folder that its reader is in: promises name tests, decisions the engine's files
FOLDERS = ("", "tests", "native/src", "tests/native/simulated")
#: files that every room has, and what is made at run time
NAMES_OF_MANY = {"interface.py", "core.py", "client.py", "app.py", "wsgi.py", "speedy.toml"}

_CODE = re.compile(r"`([^`\n]+)`")
_FILE = re.compile(r"([a-z_]+/)*[\w-]+\.(?:py|c|h|md|toml|sh)")
_FOLDER = re.compile(r"(?:tests|native|docs|scripts|clients|conformance|contracts|registry)/(?:[a-z_]+/)*")


def named(document: str) -> list[str]:
    return _CODE.findall((ROOT / document).read_text())


def found(path: str) -> Path | None:
    return next((ROOT / folder / path for folder in FOLDERS if (ROOT / folder / path).exists()), None)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_and_test_that_a_document_names_is_there(document: str) -> None:
    missing = []
    for name in named(document):
        path, _, test = name.partition("::")
        if path in NAMES_OF_MANY or not (_FILE.fullmatch(path) or _FOLDER.fullmatch(path)):
            continue
        file = found(path)
        if file is None or (test and not re.search(rf"^\s*(def|class) {test}\b", file.read_text(), re.MULTILINE)):
            missing.append(name)
    assert missing == []


def test_every_promise_is_held_by_a_test_that_is_named() -> None:
    section = (ROOT / "ARCHITECTURE.md").read_text().partition("| promise | held by |")[2].partition("\n\n")[0]
    rows = [row.split(" | ") for row in section.splitlines()[2:]]
    assert len(rows) > 20
    for promise, *held in rows:
        names = _CODE.findall(" | ".join(held))
        assert any(found(name.partition("::")[0]) for name in names), promise


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_setting_that_a_document_names_is_one(document: str) -> None:
    known = {value.key for value in effective(Settings())}
    told = {name for name in named(document) if re.fullmatch(rf"(?:{'|'.join(SECTIONS)})\.[a-z_]+", name)}
    # A room's files and modules have names of the same form.
    told = {name for name in told if found(name) is None and not found(f"{name.replace('.', '/')}.py")}
    assert told <= known


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_target_of_make_that_a_document_names_is_there(document: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^(?:`)?make ([a-z-]+)|`make ([a-z-]+)", (ROOT / document).read_text(), re.MULTILINE)) <= {
        pair for target in targets for pair in ((target, ""), ("", target))
    }


def command_lines(document: str) -> list[list[str]]:
    """The words of every `speedy ...` that stands in a block or in a line of its document."""
    text = (ROOT / document).read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()] + _CODE.findall(text)
    return [shlex.split(line, comments=True) for line in lines if line.startswith("speedy ") and "…" not in line]


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if command_lines(name)])
def test_every_command_and_option_that_a_document_shows_is_there(document: str) -> None:
    for words in command_lines(document):
        command: click.Command = cli._speedy
        context = click.Context(command)
        rest = words[1:]
        while isinstance(command, click.Group) and rest and not rest[0].startswith("--"):
            name = rest.pop(0).partition("|")[0]  # `ls|show` stands for both
            inner = command.get_command(context, name)
            assert inner is not None, f"{' '.join(words)}: no {name}"
            command = inner
        # An option behind a noun is meant for the commands of the noun.
        meant = list(command.commands.values()) if isinstance(command, click.Group) else [command]
        options = {option for one in meant for parameter in one.params for option in parameter.opts}
        options |= {option for one in meant for parameter in one.params for option in parameter.secondary_opts}
        shown = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert shown <= options | {"--help"}, " ".join(words)
