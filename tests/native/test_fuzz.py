"""libFuzzer opens stores with a damaged file (fuzzing/fuzz_open.c says how). ``SPEEDY_FUZZ_S``: seconds for each file.

What it finds stays in tests/native/corpus when it is worth it; a crash is written beside the printed output.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests import needs

from .c_program import TESTS, build

SECONDS = int(os.environ.get("SPEEDY_FUZZ_S", "30"))
SEED = os.environ.get("SPEEDY_SEED", "1")
INPUT_BYTES_MAX = 2048
RUN_TIMEOUT_S = 20  # for one input: I3, opening never loops
MEMORY_MB_MAX = 3000
pytestmark = pytest.mark.timeout(2 * SECONDS + 500)


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fuzz target under AddressSanitizer and UndefinedBehaviorSanitizer."""
    clang = needs.program("clang")
    probe = tmp_path_factory.mktemp("fuzz")
    (probe / "empty.c").write_text("int LLVMFuzzerTestOneInput(const char *d, long n) { return d[0] == n; }\n")
    linked = subprocess.run(
        [clang, "-fsanitize=fuzzer,address", "empty.c", "-o", "empty"], cwd=probe, capture_output=True, check=False
    )
    if linked.returncode != 0:
        needs.not_run("clang has no libFuzzer (Debian package libclang-rt-14-dev)")
    sources = [
        *sorted(path for path in (TESTS / "simulated").glob("*.c") if path.name != "simulated_test.c"),
        TESTS / "shared.c",
        TESTS / "fuzzing" / "fuzz_open.c",
    ]
    flags = ["-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all", f"-I{TESTS / 'simulated'}"]
    return build(probe / "fuzz_open", sources, *flags, compiler=str(clang))


@pytest.mark.parametrize("target", ["volume", "checkpoint", "manifest", "deletes"])
def test_nothing_in_a_file_makes_opening_crash_hang_or_lie(fuzzer: Path, target: str, tmp_path: Path) -> None:
    found = tmp_path / "found"
    found.mkdir()
    command = [
        str(fuzzer),
        f"-max_total_time={SECONDS}",
        f"-seed={SEED}",
        f"-timeout={RUN_TIMEOUT_S}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-rss_limit_mb={MEMORY_MB_MAX}",
        "-print_final_stats=1",
        f"-artifact_prefix={tmp_path}/",
        str(found),
        str(TESTS / "corpus" / target),
    ]
    done = subprocess.run(
        command,
        env={**os.environ, "SPEEDY_FUZZ_TARGET": target},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=2 * SECONDS + 200,
        check=False,
    )
    print(f"{target}: {done.stderr[-600:]}")
    broken = {path.name: path.read_bytes().hex() for path in tmp_path.iterdir() if path.is_file()}
    assert done.returncode == 0, f"{done.stderr[-6000:]}\ninputs, in hex: {broken}"
