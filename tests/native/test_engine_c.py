"""The engine's C test program under AddressSanitizer + UndefinedBehaviorSanitizer and under ThreadSanitizer.

``SPEEDY_FAULT_STRIDE=1`` fails every single system call in turn instead of every eleventh: minutes instead of seconds.
"""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests import needs

from .c_program import TESTS, WRAPPED, build, run

SANITIZERS = {"address": "address,undefined", "thread": "thread"}
STRIDE = os.environ.get("SPEEDY_FAULT_STRIDE", "11")
RUN_TIMEOUT_S = 280.0 if STRIDE == "11" else 7200.0


THREADED = [
    *("threads", "full_disk", "repair", "appenders", "leading", "large_faults", "sharing", "small_disk"),
    "scrub_beside_others",
    *("compaction", "compaction_repair", "one_sync_at_a_time", "too_long", "punch", "filling"),
]
CASES = {
    "address": [
        *THREADED,
        *("no_descriptors", "full_while_opening", "no_ids", "unknown_holes", "new_delete_log", "two_copies"),
        *("no_memory", "no_memory_while_opening", "filling_without_memory"),
        *("index", "faults", "crashes", "doubted_deletes", "open_faults", "fail_stop", "primitive", "scrub_faults"),
        *("compaction_damage", "compaction_faults", "compaction_crashes", "compaction_open_faults"),
    ],
    "thread": THREADED,  # the fault cases run one caller
}
SHORT = ["fail_stop", "primitive", "appenders"]


@pytest.fixture(scope="session")
def program_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compiles the test program with a sanitizer, warnings as errors, once per session."""

    @cache
    def build_with(sanitizer: str) -> Path:
        flags = ["-O1", f"-fsanitize={SANITIZERS[sanitizer]}", "-fno-sanitize-recover=all"]
        return build(
            tmp_path_factory.mktemp("engine") / f"engine_test_{sanitizer}", sorted(TESTS.glob("*.c")), *flags, *WRAPPED
        )

    return build_with


@pytest.mark.timeout(RUN_TIMEOUT_S + 20)
@pytest.mark.parametrize(("sanitizer", "case"), [(name, case) for name, cases in CASES.items() for case in cases])
def test_c_case_holds_under_the_sanitizer(
    program_with: Callable[[str], Path], sanitizer: str, case: str, fast_directory: Path
) -> None:
    """Each case is explained above its function in engine_test.c."""
    run([program_with(sanitizer), case, fast_directory, STRIDE], RUN_TIMEOUT_S)


def test_short_cases_are_clean_under_valgrind_and_without_isal(tmp_path: Path, fast_directory: Path) -> None:
    """Valgrind takes each instruction apart: those of the portable checksum are the ones to look at."""
    valgrind = needs.program("valgrind")
    program = build(tmp_path / "engine_test", sorted(TESTS.glob("*.c")), "-O1", *WRAPPED, with_isal=False)
    for case in SHORT:
        store = fast_directory / case
        store.mkdir()
        command = [valgrind, "--quiet", "--leak-check=full", "--error-exitcode=9", program, case, store, STRIDE]
        run(command, RUN_TIMEOUT_S)


@pytest.mark.parametrize("with_isal", [True, False])
def test_clang_builds_an_engine_that_holds(tmp_path: Path, fast_directory: Path, with_isal: bool) -> None:
    """The other tests build by gcc."""
    clang = str(needs.program("clang"))
    program = build(tmp_path / "test", sorted(TESTS.glob("*.c")), "-O1", *WRAPPED, compiler=clang, with_isal=with_isal)
    for case in SHORT:
        store = fast_directory / case
        store.mkdir()
        run([program, case, store, STRIDE], RUN_TIMEOUT_S)
