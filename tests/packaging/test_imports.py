"""Imports go one way: wire and native are the floor, rooms see each other's contracts only, speedy/ is the top."""

import ast
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
FLOOR = ("wire", "native")
ROOMS = ("chunkserver", "chunkmaster", "metaserver", "imageserver", "registry_driver")
TOP = "speedy"
OURS = (*FLOOR, *ROOMS, TOP)

#: a room's module that others may import: its contract
CONTRACTS = {f"{room}.interface" for room in ROOMS} | {"registry_driver.driver"}

#: import name -> name of the distribution in setup.cfg, where they differ
DISTRIBUTIONS = {"prometheus_client": "prometheus-client"}


@dataclass(frozen=True, slots=True)
class Import:
    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer} imports {self.imported} (line {self.line})"


def _modules() -> Iterator[tuple[str, Path]]:
    for top in OURS:
        for path in sorted((CHECKOUT / top).rglob("*.py")):
            parts = path.relative_to(CHECKOUT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def _imports_of(module: str, path: Path, known: set[str]) -> Iterator[Import]:
    """What a file imports, down to the module: `from a import b` is a.b where that is a module."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(module, name.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                package = module if path.name == "__init__.py" else module.rpartition(".")[0]
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                source = ".".join([*base, source] if source else base)
            for name in node.names:
                inner = f"{source}.{name.name}"
                yield Import(module, inner if inner in known else source, node.lineno)


def _all_imports() -> list[Import]:
    modules = list(_modules())
    known = {name for name, _ in modules}
    return [found for name, path in modules for found in _imports_of(name, path, known)]


def _is_allowed(found: Import) -> bool:
    here, there = found.importer.split(".")[0], found.imported.split(".")[0]
    if there not in OURS or here in (there, TOP):
        return True
    if here in FLOOR or there == TOP:
        return False
    if there in FLOOR or found.imported in CONTRACTS:
        return True
    return found.importer == f"{here}.wsgi" and found.imported == f"{there}.client"


def test_imports_go_one_way() -> None:
    found = _all_imports()
    assert {one.importer.split(".")[0] for one in found} == set(OURS), "a room was not looked at"
    assert not [str(one) for one in found if not _is_allowed(one)]


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("wire.http", "native.engine", False),
        ("native.engine", "wire.errors", False),
        ("imageserver.core", "chunkserver.interface", True),
        ("imageserver.core", "chunkserver.core", False),
        ("imageserver.core", "chunkserver.client", False),
        ("imageserver.wsgi", "chunkserver.client", True),
        ("imageserver.wsgi", "chunkserver.app", False),
        ("imageserver.wsgi", "speedy.allinone", False),
        ("speedy.allinone", "registry_driver.app", True),
    ],
)
def test_the_rule_tells_right_from_wrong(importer: str, imported: str, allowed: bool) -> None:
    assert _is_allowed(Import(importer, imported, 1)) is allowed


def test_every_library_that_is_imported_is_declared() -> None:
    config = ConfigParser()
    config.read(CHECKOUT / "setup.cfg")
    declared = {
        line.split(">")[0].strip().lower() for line in config["options"]["install_requires"].splitlines() if line
    }
    imported = {one.imported.split(".")[0] for one in _all_imports()} - set(sys.stdlib_module_names) - set(OURS)
    assert {DISTRIBUTIONS.get(name, name).lower() for name in imported} <= declared
