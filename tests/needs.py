"""What a test needs from the machine, and what happens where it is missing.

A missing tool is told in one plain line of the summary ("not run: skopeo is not installed"). Where everything is
supposed to be installed, SPEEDY_TEST_REQUIRE_ALL=1 turns the same line into a failure: a green run then means that all
of it ran.
"""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

# sbin is missing from the PATH of an ordinary user, though the programs there can be run by them.
_SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def not_run(reason: str) -> NoReturn:
    """End the test: as not run, or as failed where SPEEDY_TEST_REQUIRE_ALL=1 is set."""
    if os.environ.get("SPEEDY_TEST_REQUIRE_ALL") == "1":
        pytest.fail(f"cannot run: {reason} (SPEEDY_TEST_REQUIRE_ALL=1)", pytrace=False)
    pytest.skip(f"not run: {reason}")


def program(name: str, package: str | None = None) -> Path:
    """Path of an installed program; ends the test through `not_run` where there is none."""
    found = shutil.which(name, path=_SEARCH_PATH)
    if found is None:
        not_run(f"{name} is not installed (Debian package {package or name})")
    return Path(found)


def root() -> None:
    """Ends the test through `not_run` unless it runs as root."""
    if os.geteuid() != 0:
        not_run("needs root")
