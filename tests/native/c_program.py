"""Compiles C test programs together with the engine's sources."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from native import build_engine
from tests.needs import not_run

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests" / "native"
BUILD_TIMEOUT_S = 240.0
# What engine_test makes fail on demand (memory_case.c).
WRAPPED = [f"-Wl,--wrap={name}" for name in ("malloc", "calloc", "realloc", "pthread_create")]


def build(
    target: Path, sources: Sequence[Path], *flags: str, compiler: str = "gcc", with_isal: bool | None = None
) -> Path:
    """Compiles ``sources`` and the engine to the program ``target``, warnings as errors, with ISA-L where it is
    installed (None); the test does not run where the compiler lacks a sanitizer that ``flags`` ask for."""
    command = [compiler, "-std=c11", "-g", "-D_GNU_SOURCE", "-DOPENSSL_API_COMPAT=0x10100000L"]
    command += ["-Wall", "-Wextra", "-Wconversion", "-Werror", *flags]
    libraries = ["-lcrypto", "-lpthread"]
    if build_engine.has_isal() if with_isal is None else with_isal:
        command.append("-DSPEEDY_HAVE_ISAL")
        libraries.append("-lisal")
    command += [f"-I{folder}" for folder in (ROOT / "native" / "include", ROOT / "native" / "src", TESTS)]
    command += [*map(str, sorted((ROOT / "native" / "src").glob("*.c"))), *map(str, sources), "-o", str(target)]
    built = subprocess.run(
        [*command, *libraries], capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False, cwd=target.parent
    )
    if "cannot find" in built.stderr and "san" in built.stderr:
        not_run(f"{compiler} lacks a sanitizer: {' '.join(flags)}")
    assert built.returncode == 0, built.stderr
    return target


def run(command: Sequence[str | Path], timeout_s: float) -> str:
    """Runs a test program, which must end with status 0 and "ok"; returns what it printed."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("ok\n")
    return done.stdout
