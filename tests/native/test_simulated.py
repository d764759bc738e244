"""Power cuts and failing disks by the thousand, on a simulated disk (simulated/simulated_test.c says how).

The environment makes them more, for soaks: ``SPEEDY_CRASH_POINTS`` different crashes, every ``SPEEDY_FAULT_STRIDE``-th
call failing and bit of filling zeros flipped, ``SPEEDY_SEED``. A failure prints the command that shows it again, and
where the record is kept that the command may need.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from .c_program import TESTS, build, run

CRASH_POINTS = int(os.environ.get("SPEEDY_CRASH_POINTS", "10500"))
# A crash takes five times as long there: every so many positions of a record, and other ones with each seed.
SANITIZED_EVERY = 30
SEED = os.environ.get("SPEEDY_SEED", "1")
STRIDE = os.environ.get("SPEEDY_FAULT_STRIDE", "37")
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


@contextmanager
def records_kept(directory: Path, kept: Path) -> Iterator[None]:
    """A workload with several threads never runs the same way twice: when a test fails its record goes from
    ``directory``, which is removed, to ``kept``, where pytest leaves it for its next runs."""
    try:
        yield
    except BaseException:
        for record in sorted(directory.glob("record-*")):
            print(f"{record} is kept as {shutil.copy(record, kept)}")
        raise


def crashes(program: Path, wanted: int, directory: Path, kept: Path, stride: int = 1) -> int:
    with records_kept(directory, kept):
        printed = run([program, "crashes", str(wanted), SEED, directory, str(stride)], TIMEOUT_S)
    print(printed)
    counted = re.search(r"^(\d+) different crashes$", printed, re.MULTILINE)
    assert counted is not None
    return int(counted[1])


def test_whatever_a_power_cut_leaves_is_recovered(
    simulated_test: Callable[..., Path], fast_directory: Path, tmp_path: Path
) -> None:
    assert crashes(simulated_test("plain", "-O2"), CRASH_POINTS, fast_directory, tmp_path) >= CRASH_POINTS


def test_the_record_of_a_crash_that_was_not_recovered_is_kept(fast_directory: Path, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\necho what it did > "$4/record-crowd-7"\nexit 1\n')
    program.chmod(0o700)
    with pytest.raises(AssertionError):
        crashes(program, 1, fast_directory, tmp_path)
    assert (tmp_path / "record-crowd-7").read_text() == "what it did\n"


def test_recovery_is_clean_under_the_sanitizers(
    simulated_test: Callable[..., Path], fast_directory: Path, tmp_path: Path
) -> None:
    program = simulated_test("sanitized", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    wanted = CRASH_POINTS // SANITIZED_EVERY
    assert crashes(program, wanted, fast_directory, tmp_path, SANITIZED_EVERY) >= wanted


def test_no_failing_call_loses_or_invents_anything(simulated_test: Callable[..., Path], fast_directory: Path) -> None:
    print(run([simulated_test("plain", "-O2"), "faults", STRIDE, SEED, fast_directory], TIMEOUT_S))


def test_each_flipped_bit_of_a_small_store_harms_one_chunk_at_most(
    simulated_test: Callable[..., Path], fast_directory: Path
) -> None:
    print(run([simulated_test("plain", "-O2"), "flips", STRIDE, SEED, fast_directory], TIMEOUT_S))
