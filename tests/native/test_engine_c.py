"""The engine's C test program under AddressSanitizer + UndefinedBehaviorSanitizer and under ThreadSanitizer.

``SPEEDY_FAULT_STRIDE=1`` fails every single system call in turn instead of every eleventh (minutes instead of seconds).
"""

import os
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from native import build_engine

ROOT = Path(__file__).parents[2]
SANITIZERS = {"address": "address,undefined", "thread": "thread"}
STRIDE = os.environ.get("SPEEDY_FAULT_STRIDE", "11")
BUILD_TIMEOUT_S = 240.0
RUN_TIMEOUT_S = 280.0 if STRIDE == "11" else 7200.0


THREADED = [
    "threads",
    "full_disk",
    "repair",
    "appenders",
    "large_faults",
    "sharing",
    "small_disk",
    "scrub_beside_others",
]
CASES = {
    "address": [*THREADED, "index", "faults", "crashes", "open_faults", "fail_stop", "primitive", "scrub_faults"],
    "thread": THREADED,  # the fault cases run one caller
}


@pytest.fixture(scope="session")
def program_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compiles the test program with a sanitizer, warnings as errors, once per session."""

    @cache
    def build(sanitizer: str) -> Path:
        target = tmp_path_factory.mktemp("engine") / f"engine_test_{sanitizer}"
        flags = ["-std=c11", "-O1", "-g", "-D_GNU_SOURCE", "-DOPENSSL_API_COMPAT=0x10100000L"]
        flags += ["-Wall", "-Wextra", "-Werror", f"-fsanitize={SANITIZERS[sanitizer]}", "-fno-sanitize-recover=all"]
        libraries = ["-lcrypto", "-lpthread"]
        if build_engine.has_isal():
            flags.append("-DSPEEDY_HAVE_ISAL")
            libraries.append("-lisal")
        sources = [*sorted((ROOT / "native" / "src").glob("*.c")), *sorted((ROOT / "tests" / "native").glob("*.c"))]
        includes = [f"-I{ROOT / folder}" for folder in ("native/include", "native/src", "tests/native")]
        command = ["gcc", *flags, *includes, *map(str, sources), "-o", str(target), *libraries]
        built = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
        if "cannot find" in built.stderr and "san" in built.stderr:
            pytest.skip(f"this compiler has no {sanitizer} sanitizer")
        assert built.returncode == 0, built.stderr
        return target

    return build


@pytest.mark.parametrize(("sanitizer", "case"), [(name, case) for name, cases in CASES.items() for case in cases])
def test_c_case_holds_under_the_sanitizer(
    program_with: Callable[[str], Path], sanitizer: str, case: str, fast_directory: Path
) -> None:
    """Each case is explained above its function in engine_test.c."""
    done = subprocess.run(
        [str(program_with(sanitizer)), case, str(fast_directory), STRIDE],
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("ok\n")
