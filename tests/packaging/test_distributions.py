"""What people install: an sdist, the wheel built from it, and an editable checkout, each with the engine inside.

Needs the package index, as every installation does.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.images import build_image, build_index, layout_blobs
from tests.clients.targets import serving
from tests.clients.tools import Skopeo, run
from tests.needs import not_run

CHECKOUT = Path(__file__).parents[2]
ROOMS = {"wire", "native", "chunkserver", "chunkmaster", "metaserver", "imageserver", "registry_driver", "speedy"}

pytestmark = pytest.mark.timeout(600)
_INSTALL_S = 500.0


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout's files without what git ignores, elsewhere: building writes beside what it builds."""
    if not (CHECKOUT / ".git").exists():
        not_run("not a git checkout")
    copy = tmp_path_factory.mktemp("checkout") / "speedy-registry"
    for name in run(["git", "-C", CHECKOUT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]).split(
        "\0"
    ):
        if name and (CHECKOUT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    run([sys.executable, "-m", "build", "--sdist", "--outdir", out, checkout], timeout_s=_INSTALL_S)
    (found,) = out.iterdir()
    return found


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist alone: a header or a source that it lacks shows here."""
    out = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", out, sdist], timeout_s=_INSTALL_S)
    (found,) = out.iterdir()
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """bin/ of an empty environment with the wheel and its dependencies."""
    environment = _new_environment(tmp_path_factory.mktemp("installed"))
    constraints = CHECKOUT / "constraints.txt"
    run([environment / "python", "-m", "pip", "install", "-q", "-c", constraints, wheel], timeout_s=_INSTALL_S)
    yield environment
    shutil.rmtree(environment.parent)


def _new_environment(directory: Path) -> Path:
    run([sys.executable, "-m", "venv", directory / "env"], timeout_s=_INSTALL_S)
    return directory / "env" / "bin"


def _outside(argv: list[str | Path], directory: Path) -> str:
    """Standard output of a command that cannot see the checkout."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(argv, cwd=directory, env=env, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_the_sdist_holds_what_a_build_needs(sdist: Path, checkout: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {str(path.relative_to(checkout)) for path in (checkout / "native").rglob("*.[ch]")}
    assert sources
    assert sources | {"setup.py", "setup.cfg", "pyproject.toml", "LICENSE", "README.md"} <= names


def test_the_wheel_holds_all_of_our_rooms_and_nothing_else(wheel: Path, checkout: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.partition("/")[0] for name in names}
    (info,) = (top for top in tops if top.endswith(".dist-info"))
    assert tops - {info} == ROOMS
    modules = {str(path.relative_to(checkout)) for room in ROOMS for path in (checkout / room).rglob("*.py")}
    assert any("/migrations/versions/" in module for module in modules)
    assert modules <= names
    engines = [name for name in names if name.startswith("native/_engine") and name.endswith(".so")]
    assert len(engines) == 1
    assert not [name for name in names if name.endswith((".c", ".h", ".o"))]


def test_the_installed_command_tells_its_version(installed: Path, wheel: Path, tmp_path: Path) -> None:
    version = _outside([installed / "speedy", "--version"], tmp_path).strip()
    assert version == f"speedy {wheel.name.split('-')[1]}"
    where = _outside([installed / "python", "-c", "import native._engine as e; print(e.__file__)"], tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)


def test_the_installed_registry_takes_an_image_and_gives_it_back(installed: Path, tmp_path: Path) -> None:
    skopeo = Skopeo.start()
    try:
        image = build_image(tmp_path, "installed", layer_sizes=[10_000, 9_000_000], seed=11)
        index = build_index(tmp_path, "installed", [image])
        exact = ("--all", "--preserve-digests")  # or skopeo compresses on its way
        with serving(tmp_path, command=[str(installed / "speedy")], pythonpath=None) as address:
            assert _migrated_tables(tmp_path / "data")
            skopeo.copy(f"oci:{index.layout}:latest", f"docker://{address}/first/image:v1", *exact)
            skopeo.copy(f"docker://{address}/first/image:v1", f"oci:{tmp_path}/back:latest", *exact)
        assert layout_blobs(tmp_path / "back") == layout_blobs(index.layout)
    finally:
        skopeo.close()


def _migrated_tables(data: Path) -> list[str]:
    """Databases below the data directory that Alembic has brought to a version."""
    found = []
    for path in data.rglob("*"):
        if path.is_file() and path.read_bytes()[:16] == b"SQLite format 3\0":
            connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            try:
                tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            finally:
                connection.close()
            found += [f"{path.name}:{name}" for name in tables if "version" in name]
    return found


def test_an_editable_install_takes_the_place_and_finds_the_engine_in_the_checkout(
    installed: Path, checkout: Path, tmp_path: Path
) -> None:
    """The last one of this file: the wheel is gone afterwards."""
    run([installed / "python", "-m", "pip", "install", "-q", "--no-deps", "-e", checkout], timeout_s=_INSTALL_S)
    where = _outside([installed / "python", "-c", "import native._engine as e; print(e.__file__)"], tmp_path)
    assert Path(where.strip()).is_relative_to(checkout)
