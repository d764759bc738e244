"""Which lines of native/src the tests reach: ``python -m tests.native.coverage``, or ``make coverage``.

Compiles the engine once with gcov's counters, into the C test programs and into an extension module; runs the cases of
engine_test and simulated_test and the Python tests beside them; prints the share of lines that ran and every line that
did not. COVERAGE.md says why those are left. Exit status 1 below PERCENT_MIN.
"""

import gzip
import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from native import build_engine

from .c_program import ROOT, TESTS, WRAPPED
from .test_engine_c import CASES

PERCENT_MIN = 90.0
FLAGS = [
    "-std=c11",
    "-O0",
    "-g",
    "-fPIC",
    "--coverage",
    "-fprofile-update=atomic",
    "-D_GNU_SOURCE",
    "-DOPENSSL_API_COMPAT=0x10100000L",
]
STEP_TIMEOUT_S = 600.0
PYTHON_TESTS = ("checksum", "digest", "inspect", "put_many", "engine", "damage", "quarantine", "compaction")


@dataclass(frozen=True, slots=True)
class Coverage:
    """Lines of one source file: how many can run, and the numbers of those that did not."""

    name: str
    lines: int
    missed: tuple[int, ...]


def measure(directory: Path) -> list[Coverage]:
    """Builds and runs everything in ``directory``; one entry for each source file of the engine."""
    includes = [f"-I{folder}" for folder in (ROOT / "native/include", ROOT / "native/src", TESTS, TESTS / "simulated")]
    isal = build_engine.has_isal()
    engine = sorted((ROOT / "native" / "src").glob("*.c"))
    programs = {
        "engine_test": sorted(TESTS.glob("*.c")),
        "simulated_test": [*sorted((TESTS / "simulated").glob("*.c")), TESTS / "shared.c"],
    }
    for source in {*engine, *(path for paths in programs.values() for path in paths)}:
        _run(["gcc", *FLAGS, *(["-DSPEEDY_HAVE_ISAL"] if isal else []), *includes, "-c", str(source)], directory)
    libraries = ["-lcrypto", "-lpthread", *(["-lisal"] if isal else [])]
    for program, sources in programs.items():
        objects = [f"{source.stem}.o" for source in (*engine, *sources)]
        wrapped = WRAPPED if program == "engine_test" else []
        _run(["gcc", "--coverage", *wrapped, *objects, "-o", program, *libraries], directory)
    for case in CASES["address"]:
        with tempfile.TemporaryDirectory(dir=directory) as store:
            _run(["./engine_test", case, store, "11"], directory)
    for command in ("crashes", "faults", "flips"):
        _run(["./simulated_test", command, {"crashes": "5000"}.get(command, "11"), "1", "."], directory)
    _run_python_tests(directory, [f"{source.stem}.o" for source in engine], libraries)
    _run(["gcov", "--json-format", *(f"{source.stem}.gcda" for source in engine)], directory)
    return [_read(directory / f"{source.stem}.gcov.json.gz", source) for source in engine]


def _run_python_tests(directory: Path, objects: Sequence[str], libraries: Sequence[str]) -> None:
    """In a copy of the packages they import, whose extension module has the counters."""
    tree = directory / "tree"
    shutil.copytree(ROOT / "native", tree / "native", ignore=shutil.ignore_patterns("*.so", "src", "__pycache__"))
    shutil.copytree(
        TESTS, tree / "tests" / "native", ignore=shutil.ignore_patterns("__pycache__", "simulated", "corpus")
    )
    for name in ("__init__.py", "needs.py"):
        shutil.copy(ROOT / "tests" / name, tree / "tests" / name)
    module = directory / "_engine.c"
    build_engine.make_ffi(ROOT / "native").emit_c_code(str(module))
    target = tree / "native" / f"_engine{sysconfig.get_config_var('EXT_SUFFIX')}"
    includes = [f"-I{sysconfig.get_path('include')}", f"-I{ROOT / 'native' / 'include'}"]
    command = ["gcc", "-shared", "-fPIC", "--coverage", *includes, str(module), *objects]
    _run([*command, "-o", str(target), *libraries], directory)
    tests = [str(tree / "tests" / "native" / f"test_{name}.py") for name in PYTHON_TESTS]
    _run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tree), *tests], tree)


def _run(command: Sequence[str], directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=STEP_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def _read(report: Path, source: Path) -> Coverage:
    with gzip.open(report, "rt") as content:
        files = json.load(content)["files"]
    counts: dict[int, int] = {}
    for line in next(file["lines"] for file in files if Path(file["file"]).name == source.name):
        counts[line["line_number"]] = max(counts.get(line["line_number"], 0), line["count"])
    return Coverage(source.name, len(counts), tuple(sorted(number for number, count in counts.items() if count == 0)))


def main() -> int:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as directory:
        found = measure(Path(directory))
    for file in found:
        text = (ROOT / "native" / "src" / file.name).read_text(encoding="utf-8").splitlines()
        for number in file.missed:
            print(f"{file.name}:{number}: {text[number - 1].strip()}")
    lines, missed = sum(file.lines for file in found), sum(len(file.missed) for file in found)
    percent = 100 * (lines - missed) / lines
    for file in found:
        print(f"{file.name:18} {file.lines:5} lines, {len(file.missed):4} not run")
    print(f"{percent:.1f} % of {lines} lines of native/src ran")
    return 0 if percent >= PERCENT_MIN else 1


if __name__ == "__main__":
    sys.exit(main())
