"""Power cuts and failing disks by the thousand, on a simulated disk (simulated/simulated_test.c says how).

The environment makes them more, for soaks: ``SPEEDY_CRASH_POINTS`` different crashes, every ``SPEEDY_FAULT_STRIDE``-th
call failing and bit of filling zeros flipped, ``SPEEDY_SEED``. A failure prints the command that shows it again.
"""

import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from .c_program import TESTS, build, run

CRASH_POINTS = int(os.environ.get("SPEEDY_CRASH_POINTS", "12000"))
SANITIZED_CRASH_POINTS = CRASH_POINTS // 12
SEED = os.environ.get("SPEEDY_SEED", "1")
STRIDE = os.environ.get("SPEEDY_FAULT_STRIDE", "5")
# A second for a hundred points, on a machine that others keep busy.
TIMEOUT_S = max(280.0, CRASH_POINTS / 100)
pytestmark = pytest.mark.timeout(TIMEOUT_S + 20)


@pytest.fixture(scope="module")
def simulated_test(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds the program with these flags, once."""

    @cache
    def make(name: str, *flags: str) -> Path:
        sources = [*sorted((TESTS / "simulated").glob("*.c")), TESTS / "shared.c"]
        return build(tmp_path_factory.mktemp("simulated") / name, sources, *flags)

    return make


def crashes(program: Path, wanted: int, directory: Path) -> int:
    printed = run([program, "crashes", str(wanted), SEED, directory], TIMEOUT_S)
    print(printed)
    counted = re.search(r"^(\d+) different crashes$", printed, re.MULTILINE)
    assert counted is not None
    return int(counted[1])


def test_whatever_a_power_cut_leaves_is_recovered(simulated_test: Callable[..., Path], fast_directory: Path) -> None:
    assert crashes(simulated_test("plain", "-O2"), CRASH_POINTS, fast_directory) >= CRASH_POINTS


def test_recovery_is_clean_under_the_sanitizers(simulated_test: Callable[..., Path], fast_directory: Path) -> None:
    program = simulated_test("sanitized", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    assert crashes(program, SANITIZED_CRASH_POINTS, fast_directory) >= SANITIZED_CRASH_POINTS


def test_no_failing_call_loses_or_invents_anything(simulated_test: Callable[..., Path], fast_directory: Path) -> None:
    print(run([simulated_test("plain", "-O2"), "faults", STRIDE, SEED, fast_directory], TIMEOUT_S))


def test_each_flipped_bit_of_a_small_store_harms_one_chunk_at_most(
    simulated_test: Callable[..., Path], fast_directory: Path
) -> None:
    print(run([simulated_test("plain", "-O2"), "flips", STRIDE, SEED, fast_directory], TIMEOUT_S))
